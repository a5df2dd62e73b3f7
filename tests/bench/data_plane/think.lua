-- Users that pause before each request: ten milliseconds in the mean, exponentially distributed, so that many of them together
-- are a steady stream of independent arrivals whose rate hardly depends on how fast the answers come.
local mean_ms = 10

function init()
  math.randomseed(7)
end

function delay()
  return math.floor(-mean_ms * math.log(1 - math.random()) + 0.5)
end
