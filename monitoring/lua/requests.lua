-- Takes one request from every bucket, or from none if one of them is empty.
--
-- KEYS: the buckets. ARGV: the limit of each, requests a minute.
-- A bucket is kept as its debt: a request adds MINUTE to it, each microsecond pays `limit` back, and it is empty while
-- the debt is above MINUTE * (limit - 1). All are whole numbers below 2^53, so that nothing is rounded or drifts.
-- Returns what the tightest bucket says: {microseconds to wait, limit, remaining, microseconds until it is full}.
local MINUTE = 60000000
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local debts, wait, refused = {}, -1, nil

for i, key in ipairs(KEYS) do
    local limit = tonumber(ARGV[i])
    local debt, at = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
    debt, at = tonumber(debt or 0), tonumber(at or 0)
    if at > now then debt, at = 0, now end -- the clock went back
    debts[i] = math.max(0, debt - (now - at) * limit)
    local missing = debts[i] + MINUTE - limit * MINUTE
    if missing > 0 then
        local needed = limit > 0 and math.ceil(missing / limit) or MINUTE
        if needed > wait then wait, refused = needed, limit end
    end
end
if refused then return {wait, refused, 0, wait} end

local limit, remaining, full = 0, nil, 0
for i, key in ipairs(KEYS) do
    local own = tonumber(ARGV[i])
    local debt = debts[i] + MINUTE
    local left, paid = math.floor(own - debt / MINUTE), math.ceil(debt / own)
    redis.call('SET', key, string.format('%.0f %.0f', debt, now), 'PX', math.ceil(paid / 1000) + 1000)
    if remaining == nil or left < remaining then limit, remaining, full = own, left, paid end
end
return {0, limit, remaining, full}
