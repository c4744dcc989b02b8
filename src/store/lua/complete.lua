-- Ends the claim of owner: see store/ngx_idem_redis_scripts.h.

local key, owner, state, life, status, dry, record, ends, channel =
    KEYS[1], unpack(ARGV)
local verdict = state == 'd' and 'D' or state == 'u' and 'S' or 'U'
local v = redis.call('GET', key)
if not v or v:sub(4, 19) ~= owner then return { 'L' } end

local s = v:sub(1, 3)
if s == 'I1' .. state then return { verdict } end       -- sent again
if s ~= 'I1r' then return { 'L' } end
local l, c, y, told = struct.unpack('>dHBc1', v, 60)
if redis.call('PTTL', key) <= l then return { 'L' } end

v = 'I1' .. state .. v:sub(4, 59)
    .. struct.pack('>dHBc1', life, status, dry, '0') .. record

if ends ~= '' then              -- put back: ends as it would have ended
    redis.call('SET', key, v)
    redis.call('PEXPIREAT', key, ends)
elseif life == '0' then
    redis.call('DEL', key)
else
    redis.call('SET', key, v, 'PX', life)
end
if told == '1' then redis.call('PUBLISH', channel, verdict) end
return { verdict }
