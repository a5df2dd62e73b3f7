// Regions on a simple map: longitude to the right, latitude upwards, land in very few corners.
import { morph } from "./morph.js";

const LAND = [
  "-168,66 -140,70 -95,72 -80,62 -60,52 -66,44 -81,25 -97,26 -97,16 -83,9 -78,8 -105,20 -117,33 -125,48 -150,60",
  "-78,8 -60,9 -35,-6 -40,-22 -58,-38 -68,-54 -74,-50 -71,-18 -81,-5",
  "-10,36 -9,43 2,50 8,58 20,70 60,70 105,77 170,70 178,64 160,58 142,50 128,38 121,30 108,20 105,10 98,8 94,18 80,8 72,20 58,24 44,13 35,30 27,37 14,38 3,42",
  "-17,15 -6,36 11,37 32,31 43,11 51,11 40,-5 40,-16 32,-29 19,-35 12,-18 9,4 -8,5",
  "114,-22 131,-12 142,-11 153,-27 146,-39 130,-32 115,-34",
  "-55,60 -22,70 -20,80 -60,81 -70,76",
];

const arcKey = (from, to) => `${from}>${to}`;

export function drawMap(svg, regions, make) {
  const land = LAND.map((corners) => {
    const points = corners.split(" ").map((corner) => corner.split(",").map(Number));
    return make("path", { svg: true, class: "land", d: `${points.map(([x, y], at) => `${at ? "L" : "M"}${x} ${-y}`).join("")}Z` });
  });
  // Regions without a place stand in a row in the south.
  let placeless = 0;
  const places = new Map(regions.map((region) => {
    const known = region.latitude !== null && region.longitude !== null;
    const at = known ? [region.longitude, -region.latitude] : [-160 + 45 * placeless++, 58];
    return [region.name, at];
  }));
  // A rescue goes from regions that send users on to those that take them.
  const giving = regions.filter((region) => (region.rate?.tunnels_out ?? 0) > (seen.get(`out ${region.name}`) ?? Infinity));
  const taking = regions.filter((region) => (region.rate?.tunnels_in ?? 0) > (seen.get(`in ${region.name}`) ?? Infinity));
  const now = Date.now();
  for (const from of giving) for (const to of taking) if (from !== to) arcs.set(arcKey(from.name, to.name), now);
  for (const region of regions) {
    seen.set(`out ${region.name}`, region.rate?.tunnels_out ?? 0);
    seen.set(`in ${region.name}`, region.rate?.tunnels_in ?? 0);
  }
  for (const [key, at] of arcs) if (now - at > 10_000) arcs.delete(key);
  const drawn = [...arcs.keys()].flatMap((key) => {
    const [from, to] = key.split(">").map((name) => places.get(name));
    if (!from || !to) return [];
    const [x, y] = [(from[0] + to[0]) / 2, (from[1] + to[1]) / 2 - 25];
    return [make("path", { svg: true, class: "arc", d: `M${from} Q${x} ${y} ${to}` }, make("title", { svg: true }, `rescue ${key.replace(">", " → ")}`))];
  });
  const busiest = Math.max(...regions.map((region) => region.rate?.requests_per_second ?? 0), 1);
  const labels = [];
  const dots = regions.flatMap((region) => {
    const [x, y] = places.get(region.name);
    const rate = region.rate?.requests_per_second ?? 0;
    const mark = { good: "✓", warn: "▲", bad: "✕" }[region.look];
    const words = `${mark} ${region.name} ${rate.toFixed(0)}/s`;
    const at = label(words, x, y, labels);
    return [
      make("circle", { svg: true, class: `place fill-${region.look}`, cx: x, cy: y, r: 3 + 5 * Math.sqrt(rate / busiest) },
        make("title", { svg: true }, `${region.name}: ${region.nodes_alive} nodes, ${region.healthy} of ${region.total} backends, ${rate.toFixed(1)} requests/s${region.stale_seconds ? `, heard ${region.stale_seconds} s ago` : ""}`)),
      make("text", { svg: true, ...at }, words),
    ];
  });
  morph(svg, ...land, ...drawn, ...dots);
}

// Where the words of a place stand: the first spot around it where they cover no others and end before the map does.
const [WEST, EAST, NORTH, SOUTH] = [-178, 178, -80, 64];
const [CHARACTER, LINE] = [3.9, 7.5];
function label(words, x, y, taken) {
  const width = words.length * CHARACTER;
  const spots = [-4, 5, -12, 13, -20, 21, -28, 29].flatMap((down) => [[x + 6, y + down], [x - 6 - width, y + down]]);
  const boxes = spots.map(([left, bottom]) => {
    const within = Math.min(Math.max(left, WEST), EAST - width);
    return { left: within, right: within + width, top: bottom - LINE, bottom };
  });
  const covers = (one, other) => one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;
  const free = boxes.find((box) => box.top > NORTH && box.bottom < SOUTH && !taken.some((other) => covers(box, other))) ?? boxes[0];
  taken.push(free);
  return { x: free.left, y: free.bottom - 1.5 };
}

const seen = new Map();
const arcs = new Map();
