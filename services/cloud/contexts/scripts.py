"""What runs within Redis, in Lua: each script is one step that nothing comes between.

    <prefix>:session:<id>         hash: revision, log, count, bytes, client; or only `closed`
    <prefix>:log:<id>             list: the log's entries
    <prefix>:client:<tag>         sorted set: its sessions that have a log, by when they expire
    <prefix>:client:<tag>:bytes   hash: bytes of each of these logs, and of all together (`*`)

They name keys they were not given, so they need one primary, not Redis Cluster. Redis refuses them
as a whole when it is out of memory, but for those allowed to run then: those add nothing.
"""

_COMMON = """
local prefix, session = ARGV[1], ARGV[2]
local function record_key(id) return prefix .. ':session:' .. id end
local function log_key(id) return prefix .. ':log:' .. id end
local function client_key(tag) return prefix .. ':client:' .. tag end
local record = redis.call('HMGET', record_key(session),
  'revision', 'log', 'count', 'bytes', 'client', 'closed')
local revision, log, count = tonumber(record[1]), record[2], tonumber(record[3])
local bytes, client, closed = tonumber(record[4]), record[5], tonumber(record[6])

local function take_off_books(id, tag)
  local sizes = client_key(tag) .. ':bytes'
  local size = redis.call('HGET', sizes, id)
  if size then
    redis.call('HDEL', sizes, id)
    redis.call('HINCRBY', sizes, '*', '-' .. size)
  end
  redis.call('ZREM', client_key(tag), id)
  if redis.call('EXISTS', client_key(tag)) == 0 then redis.call('DEL', sizes) end
end

local function entries_from(first, chunk)
  local found, size = {}, 0
  while first < count and size < chunk do
    local last = math.min(first + 15, count - 1)
    local part = redis.call('LRANGE', log_key(session), first, last)
    for _, entry in ipairs(part) do
      found[#found + 1] = entry
      size = size + #entry
    end
    if #part == 0 then break end
    first = first + #part
  end
  return found
end

local function now_ms()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end
"""

# revision, time to live in ms, bytes of entries to answer with
CLAIM = (
    "#!lua flags=allow-oom\n"
    + _COMMON
    + """
local mine, ttl = tonumber(ARGV[3]), tonumber(ARGV[4])
if closed then
  if closed >= mine then return {'closed', closed} end
  return {'missing'}
end
if not revision then return {'missing'} end
if revision > mine then return {'fenced', revision} end
redis.call('HSET', record_key(session), 'revision', mine)
redis.call('PEXPIRE', record_key(session), ttl)
redis.call('PEXPIRE', log_key(session), ttl)
if log ~= '' then
  redis.call('ZADD', client_key(client), 'XX', now_ms() + ttl, session)
  redis.call('PEXPIRE', client_key(client), ttl)
  redis.call('PEXPIRE', client_key(client) .. ':bytes', ttl)
end
return {'ok', log, count, entries_from(0, tonumber(ARGV[5]))}
"""
)

# name of the log, first entry, bytes of entries to answer with
READ = (
    "#!lua flags=no-writes\n"
    + _COMMON
    + """
if log ~= ARGV[3] then return {'behind'} end
return {'ok', log, count, entries_from(tonumber(ARGV[4]), tonumber(ARGV[5]))}
"""
)

# revision, name and entries of the log known to the writer, name of one to write anew or '', its
# client, the client's bytes, time to live in ms; then the entries
WRITE = (
    "#!lua\n"
    + _COMMON
    + """
local mine, known, entries, anew = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), ARGV[6]
local tag, budget, ttl = ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
if closed and closed >= mine then return {'closed', closed} end
if revision and revision > mine then return {'fenced', revision} end
if revision == mine then
  if log == '' and known ~= '' then return {'dropped'} end
  if log ~= known or count ~= entries then return {'behind'} end
end
if anew == '' and revision ~= mine then return {'missing'} end

local now, sizes = now_ms(), client_key(tag) .. ':bytes'
for _, id in ipairs(redis.call('ZRANGEBYSCORE', client_key(tag), '-inf', now)) do
  if id ~= session then take_off_books(id, tag) end
end
local size = anew == '' and bytes or 0
for place = 10, #ARGV do size = size + #ARGV[place] end
local function keep_revision_only(id, at)
  redis.call('DEL', log_key(id))
  redis.call('HSET', record_key(id), 'revision', at, 'log', '', 'count', 0, 'bytes', 0)
end
if client and client ~= tag then take_off_books(session, client) end
if size > budget then
  take_off_books(session, tag)
  redis.call('DEL', record_key(session))
  keep_revision_only(session, mine)
  redis.call('HSET', record_key(session), 'client', tag)
  redis.call('PEXPIRE', record_key(session), ttl)
  return {'dropped'}
end
local own = tonumber(redis.call('HGET', sizes, session) or '0')
local over = tonumber(redis.call('HGET', sizes, '*') or '0') - own + size - budget
while over > 0 do
  local oldest = redis.call('ZRANGE', client_key(tag), 0, 1)
  local id = oldest[1] ~= session and oldest[1] or oldest[2]
  if not id then break end
  over = over - tonumber(redis.call('HGET', sizes, id) or '0')
  keep_revision_only(id, redis.call('HGET', record_key(id), 'revision') or 0)
  redis.call('PEXPIRE', record_key(id), ttl)
  take_off_books(id, tag)
end

if anew ~= '' then
  redis.call('DEL', log_key(session), record_key(session))
  known, entries = anew, 0
end
for place = 10, #ARGV do redis.call('RPUSH', log_key(session), ARGV[place]) end
redis.call('HSET', record_key(session), 'revision', mine, 'log', known,
  'count', entries + #ARGV - 9, 'bytes', size, 'client', tag)
redis.call('PEXPIRE', record_key(session), ttl)
redis.call('PEXPIRE', log_key(session), ttl)
redis.call('HINCRBY', sizes, '*', size - own)
redis.call('HSET', sizes, session, size)
redis.call('ZADD', client_key(tag), now + ttl, session)
redis.call('PEXPIRE', client_key(tag), ttl)
redis.call('PEXPIRE', sizes, ttl)
return {'ok'}
"""
)

# revision, ms for which it is remembered
CLOSE = (
    "#!lua flags=allow-oom\n"
    + _COMMON
    + """
local mine = tonumber(ARGV[3])
if revision and revision > mine then return {'fenced', revision} end
if client then take_off_books(session, client) end
redis.call('DEL', record_key(session), log_key(session))
redis.call('HSET', record_key(session), 'closed', math.max(mine, closed or 0))
redis.call('PEXPIRE', record_key(session), tonumber(ARGV[4]))
return {revision and 'ok' or 'missing'}
"""
)
