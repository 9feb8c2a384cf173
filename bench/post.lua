-- What wrk sends: BODY, with the headers in HEADERS (a line each); and how it reports: one line of JSON.
wrk.method = "POST"
wrk.body = os.getenv("BODY")
for name, value in os.getenv("HEADERS"):gmatch("([^:\n]+): ([^\n]+)") do
    wrk.headers[name] = value
end

local threads = {}

function setup(thread)
    table.insert(threads, thread)
end

function init()
    good, bad = 0, 0
end

function response(status)
    if status == 200 then good = good + 1 else bad = bad + 1 end
end

function done(summary, latency)
    local good, bad = 0, 0
    for _, thread in ipairs(threads) do
        good, bad = good + thread:get("good"), bad + thread:get("bad")
    end
    local broken = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
    io.write(string.format('{"good": %d, "bad": %d, "broken": %d, "seconds": %f, "p50": %f, "p99": %f}\n',
        good, bad, broken, summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6))
end
