-- Prolongs the lease of owner: see store/ngx_idem_redis_scripts.h.

local key, owner, lease = KEYS[1], unpack(ARGV)
local v = redis.call('GET', key)
if not v or not v:find('^[IG]1r') or v:sub(4, 19) ~= owner then
    return { 'L' } end

local life = struct.unpack('>d', v, 60)
if redis.call('PTTL', key) <= life then return { 'L' } end

redis.call('PEXPIRE', key, lease + life)
return { 'O' }
