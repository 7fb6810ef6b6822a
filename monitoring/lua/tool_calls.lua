-- Counts those calls of a session that may start now: no minute has more than the limit.
--
-- KEYS: the session's calls, by the microsecond in which they were counted. ARGV: the limit, then the ids of calls. One
-- that is counted already stays so.
-- Returns for each call 0, the milliseconds until there may be room for it, or -1 if there never is.
local MINUTE = 60000000
local key, limit = KEYS[1], tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now - MINUTE))
redis.call('ZREMRANGEBYSCORE', key, string.format('(%.0f', now), '+inf') -- the clock went back
local count, waits = redis.call('ZCARD', key), {}

for i = 2, #ARGV do
    local wait = 0
    if redis.call('ZSCORE', key, ARGV[i]) then
        wait = 0
    elseif count < limit then
        redis.call('ZADD', key, string.format('%.0f', now), ARGV[i])
        redis.call('PEXPIRE', key, MINUTE / 1000)
        count = count + 1
    elseif limit < 1 then
        wait = -1
    else
        local leaving = redis.call('ZRANGE', key, count - limit, count - limit, 'WITHSCORES')
        wait = math.ceil((tonumber(leaving[2]) + MINUTE - now) / 1000)
    end
    waits[i - 1] = wait
end
return waits
