-- Forgets the claim of owner: see store/ngx_idem_redis_scripts.h.

local key, owner, channel = KEYS[1], unpack(ARGV)
local v = redis.call('GET', key)
if not v or v:sub(1, 19) ~= 'I1r' .. owner then return { 'L' } end

local life, _, _, told = struct.unpack('>dHBc1', v, 60)
if redis.call('PTTL', key) <= life then return { 'L' } end

redis.call('DEL', key)
if told == '1' then redis.call('PUBLISH', channel, 'A') end
return { 'A' }
