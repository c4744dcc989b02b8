-- Forgets the claim of owner: see store/ngx_idem_redis_scripts.h.

local key, owner, channel, back = KEYS[1], unpack(ARGV)
local v, verdict = redis.call('GET', key), 'A'
if not v or v:sub(1, 19) ~= 'I1r' .. owner then return { 'L' } end

local life, _, dry, told = struct.unpack('>dHBc1', v, 60)
if redis.call('PTTL', key) <= life then return { 'L' } end

if back == '1' and #v > 71 then         -- it was unknown, and still is
    local born, was, status = struct.unpack('>ddH', v, 72)
    verdict = 'U'
    redis.call('SET', key, 'I1k' .. v:sub(4, 59)
               .. struct.pack('>dHBc1', was, status, dry, '0'))
    redis.call('PEXPIREAT', key, born + was)
else
    redis.call('DEL', key)
end
if told == '1' then redis.call('PUBLISH', channel, verdict) end
return { verdict }
