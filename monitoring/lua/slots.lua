-- Concurrency slots: which runs may be at work. One call is one decision, by Redis' own clock.
--
-- KEYS[1]: the prefix of all keys (one node, no cluster). ARGV: an operation's name, the limits as JSON, e.g.
-- {"site": 100, "user:*": 5, "user:7": 2}, and the operation's arguments as JSON. Answers with JSON.
--
-- A `lane` is the joined list of a run's subjects, "site,user:5,agent_type:2". Each limit of each subject must hold.
--
--   held      run -> when its slot comes back by itself     waiting     run -> since when
--   counts    subject -> slots held                         lanes       lane -> how many of it wait
--   lane_of   run -> lane, of both                          lane:<lane> run -> since when
--   served    user -> when it last got a slot (below)       released    run -> when, for a short while
--   asked     when the last decision was; missing: the state is lost

local PREFIX = KEYS[1]
local limits = cjson.decode(ARGV[2])
local asked = cjson.decode(ARGV[3])

local SECOND = 1000000
local clock = redis.call('TIME')
local now = clock[1] * SECOND + clock[2]

-- Who was never served counts as served before all others, whoever waits longest first of all.
local NEVER = 1e15

-- Longer than it takes from reading a run in Postgres to telling of it here.
local RELEASED_SECONDS = 10

local HELD, WAITING, COUNTS = PREFIX .. 'held', PREFIX .. 'waiting', PREFIX .. 'counts'
local LANES, LANE_OF, SERVED = PREFIX .. 'lanes', PREFIX .. 'lane_of', PREFIX .. 'served'
local RELEASED, ASKED = PREFIX .. 'released', PREFIX .. 'asked'

local function lane_key(lane)
    return PREFIX .. 'lane:' .. lane
end

local function subjects(lane)
    return string.gmatch(lane, '[^,]+')
end

local function user_of(lane)
    return string.match(lane, 'user:%d+')
end

local function numbers(key)
    local pairs_of = redis.call('HGETALL', key)
    local found = {}
    for i = 1, #pairs_of, 2 do
        found[pairs_of[i]] = tonumber(pairs_of[i + 1])
    end
    return found
end

-- --- the state -------------------------------------------------------------------------------------------------------

local function count(lane, by)
    for subject in subjects(lane) do
        if redis.call('HINCRBY', COUNTS, subject, by) <= 0 then
            redis.call('HDEL', COUNTS, subject)
        end
    end
end

local function stop_waiting(run)
    if redis.call('ZREM', WAITING, run) == 0 then
        return false
    end
    local lane = redis.call('HGET', LANE_OF, run)
    redis.call('HDEL', LANE_OF, run)
    redis.call('ZREM', lane_key(lane), run)
    if redis.call('HINCRBY', LANES, lane, -1) <= 0 then
        redis.call('HDEL', LANES, lane)
    end
    return true
end

local function start_waiting(run, lane)
    if redis.call('ZADD', WAITING, 'NX', now, run) == 0 then
        return
    end
    redis.call('HSETNX', SERVED, user_of(lane), now - NEVER)
    redis.call('HSET', LANE_OF, run, lane)
    redis.call('ZADD', lane_key(lane), now, run)
    redis.call('HINCRBY', LANES, lane, 1)
end

-- A slot that is held is not cut short.
local function hold(run, lane, seconds)
    local ends = now + seconds * SECOND
    local known = redis.call('ZSCORE', HELD, run)
    if not known then
        stop_waiting(run)
        redis.call('HSET', LANE_OF, run, lane)
        count(lane, 1)
    end
    if not known or tonumber(known) < ends then
        redis.call('ZADD', HELD, ends, run)
    end
end

local function free(run)
    if redis.call('ZREM', HELD, run) == 1 then
        count(redis.call('HGET', LANE_OF, run), -1)
        redis.call('HDEL', LANE_OF, run)
    end
end

local function expire()
    for _, run in ipairs(redis.call('ZRANGEBYSCORE', HELD, '-inf', now)) do
        free(run)
    end
end

-- Runs that are at work as Postgres or their worker says, but not those that have ended since that was read.
local function keep(runs, seconds)
    for run, lane in pairs(runs) do
        local since = redis.call('ZSCORE', RELEASED, run)
        if not since or tonumber(since) < now - RELEASED_SECONDS * SECOND then
            hold(run, lane, seconds)
        end
    end
end

-- --- who is next -----------------------------------------------------------------------------------------------------

local function limit_of(subject)
    local own, each = limits[subject], limits[string.match(subject, '^[^:]+') .. ':*']
    if own and each then
        return math.min(own, each)
    end
    return own or each
end

local function fits(lane, counts)
    for subject in subjects(lane) do
        local limit = limit_of(subject)
        if limit and (counts[subject] or 0) >= limit then
            return false
        end
    end
    return true
end

local function grant(run, lane, seconds, at)
    hold(run, lane, seconds)
    redis.call('HSET', SERVED, user_of(lane), at)
end

-- Give free slots to those who wait: the next one to the user who holds the fewest, of these to the one who was served
-- longest ago, of a user's runs to the one that waits longest. Returns the runs.
local function fill(seconds)
    local granted = {}
    local sizes = numbers(LANES)
    if next(sizes) == nil then
        return granted
    end
    local counts, served, heads = numbers(COUNTS), numbers(SERVED), {}

    local function head(lane)
        if not heads[lane] then
            local found = redis.call('ZRANGE', lane_key(lane), 0, 0, 'WITHSCORES')
            heads[lane] = {found[1], tonumber(found[2])}
        end
        return heads[lane]
    end

    local function goes_first(lane, other)
        local user, rival = user_of(lane), user_of(other)
        if user == rival then
            return head(lane)[2] < head(other)[2]
        end
        local held, rivals = counts[user] or 0, counts[rival] or 0
        if held == rivals then
            return served[user] < served[rival]
        end
        return held < rivals
    end

    while fits('site', counts) do
        local best
        for lane in pairs(sizes) do
            if fits(lane, counts) and (not best or goes_first(lane, best)) then
                best = lane
            end
        end
        if not best then
            break
        end
        local run, at = head(best)[1], now + #granted
        grant(run, best, seconds, at)
        granted[#granted + 1] = run
        for subject in subjects(best) do
            counts[subject] = (counts[subject] or 0) + 1
        end
        served[user_of(best)] = at
        sizes[best] = sizes[best] > 1 and sizes[best] - 1 or nil
        heads[best] = nil
    end
    return granted
end

-- How many runs wait of each user.
local function waiting_by_user()
    local found = {}
    for lane, size in pairs(numbers(LANES)) do
        local user = user_of(lane)
        found[user] = (found[user] or 0) + size
    end
    return found
end

-- The place in the queue of a run before which `earlier` of its user wait, if the slots in use stay as they are.
local function place_of(user, earlier, waits, counts, served)
    local place = earlier + 1
    local held = counts[user] or 0
    for rival, size in pairs(waits) do
        if rival ~= user then
            local rivals = counts[rival] or 0
            local ahead = held + earlier - rivals
            -- Both come to hold as many: who held more before is there first.
            if rivals > held or (rivals == held and served[rival] < served[user]) then
                ahead = ahead + 1
            end
            place = place + math.max(0, math.min(size, ahead))
        end
    end
    return place
end

local function position_of(run)
    local user = user_of(redis.call('HGET', LANE_OF, run))
    local since = redis.call('ZSCORE', WAITING, run)
    local earlier = 0
    for lane in pairs(numbers(LANES)) do
        if user_of(lane) == user then
            earlier = earlier + redis.call('ZCOUNT', lane_key(lane), '-inf', '(' .. since)
        end
    end
    return place_of(user, earlier, waiting_by_user(), numbers(COUNTS), numbers(SERVED))
end

-- Pairs of run and place, of those who wait longest.
local function positions(limit)
    local waits, counts, served = waiting_by_user(), numbers(COUNTS), numbers(SERVED)
    local seen, found = {}, {}
    for _, run in ipairs(redis.call('ZRANGE', WAITING, 0, limit - 1)) do
        local user = user_of(redis.call('HGET', LANE_OF, run))
        local earlier = seen[user] or 0
        seen[user] = earlier + 1
        found[#found + 1] = {run, place_of(user, earlier, waits, counts, served)}
    end
    return found
end

local function forget_idle_users()
    local counts, waits = numbers(COUNTS), waiting_by_user()
    for user in pairs(numbers(SERVED)) do
        if not counts[user] and not waits[user] then
            redis.call('HDEL', SERVED, user)
        end
    end
end

-- --- the operations --------------------------------------------------------------------------------------------------

local operations = {}

-- {run, lane, seconds}: a slot, or a place in the queue.
function operations.acquire()
    local run = asked.run
    redis.call('ZREM', RELEASED, run)
    if redis.call('ZSCORE', HELD, run) then
        hold(run, asked.lane, asked.seconds)
    elseif redis.call('HLEN', LANES) == 0 and fits(asked.lane, numbers(COUNTS)) then
        grant(run, asked.lane, asked.seconds, now)
    else
        start_waiting(run, asked.lane)
    end
    local granted = fill(asked.seconds)
    local is_granted = redis.call('ZSCORE', HELD, run) and true
    return {granted = granted, is_granted = is_granted, position = not is_granted and position_of(run) or nil}
end

-- {runs, seconds}: their worker is there, from now on the slots last as long as the lease; the lanes of those that have
-- one.
function operations.confirm()
    local lanes = {}
    for _, run in ipairs(asked.runs) do
        local lane = redis.call('ZSCORE', HELD, run) and redis.call('HGET', LANE_OF, run)
        if lane then
            redis.call('ZADD', HELD, now + asked.seconds * SECOND, run)
            lanes[run] = lane
        end
    end
    return {lanes = lanes}
end

-- {runs, seconds, grant_seconds}: they are still at work.
function operations.renew()
    keep(asked.runs, asked.seconds)
    return {granted = fill(asked.grant_seconds)}
end

-- {run, grant_seconds}: it neither works nor waits any more.
function operations.release()
    free(asked.run)
    stop_waiting(asked.run)
    return {granted = fill(asked.grant_seconds)}
end

-- {runs, seconds, grant_seconds, wait_seconds, limit}: those who have waited too long are waiting no more.
function operations.sweep()
    keep(asked.runs, asked.seconds)
    local granted = fill(asked.grant_seconds)
    local since = now - asked.wait_seconds * SECOND
    local late = redis.call('ZRANGEBYSCORE', WAITING, '-inf', since, 'LIMIT', 0, asked.limit)
    for _, run in ipairs(late) do
        stop_waiting(run)
    end
    forget_idle_users()
    local waiting = redis.call('ZRANGE', WAITING, 0, -1)
    return {granted = granted, late = late, waiting = waiting, positions = positions(asked.limit)}
end

-- {runs, seconds}: what Postgres knows to be at work. Nothing, if somebody was faster.
local function rebuild()
    if redis.call('EXISTS', ASKED) == 0 then
        keep(asked.runs, asked.seconds)
        redis.call('SET', ASKED, now)
    end
    return {}
end

-- If nobody has asked for so long, Redis was out of reach: slots ran out whose runs may well be at work.
local function is_lost()
    local last = redis.call('GET', ASKED)
    if not last then
        return true
    end
    local first = redis.call('ZRANGE', HELD, 0, 0, 'WITHSCORES')
    if first[1] and tonumber(first[2]) <= now and now - tonumber(last) > asked.outage_seconds * SECOND then
        redis.call('DEL', ASKED)
        return true
    end
    return false
end

if ARGV[1] == 'release' then
    -- Also when the state is lost: what somebody reads in Postgres right now may still have it at work.
    redis.call('ZADD', RELEASED, now, asked.run)
    redis.call('ZREMRANGEBYSCORE', RELEASED, '-inf', now - RELEASED_SECONDS * SECOND)
end
if ARGV[1] == 'rebuild' then
    return cjson.encode(rebuild())
end
if is_lost() then
    return cjson.encode({lost = true})
end
redis.call('SET', ASKED, now)
expire()
return cjson.encode(operations[ARGV[1]]())
