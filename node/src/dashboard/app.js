// The dashboard: asks the node's own API and shows the answer. It keeps nothing but the token, in this tab.
import { drawMap } from "./map.js";
import { diff } from "./diff.js";
import { atRest, morph } from "./morph.js";

const POLL_MS = 2000;
const $ = (id) => document.getElementById(id);

// How a state looks: sign, word, and the class that colours it. Never colour alone.
const BACKENDS = {
  up: ["✓", "good"], "going-down": ["◔", "warn"], down: ["✕", "bad"], "going-up": ["◑", "warn"],
  draining: ["⇣", "calm"], maintenance: ["⚒", "calm"], ejected: ["⊘", "bad"], unknown: ["?", "warn"],
};
const REVISIONS = { current: ["✓", "good"], past: ["–", "calm"], lost: ["✕", "warn"] };
const NODES = { alive: ["✓", "good"], suspect: ["◔", "warn"], dead: ["✕", "bad"], draining: ["⇣", "calm"], left: ["–", "calm"] };

let state = { status: null, traffic: null, users: null, regions: null };

// ---- asking ----

class Refused extends Error {}

async function ask(path, options = {}) {
  const headers = { accept: "application/json", ...options.headers };
  const token = sessionStorage.getItem("token");
  if (token) headers.authorization = `Bearer ${token}`;
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    await openDoor();
    return ask(path, options);
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Refused(problem.detail ?? `${response.status} ${response.statusText}`);
  }
  return response;
}

const json = async (path) => (await ask(path)).json();

let opening = null;
function openDoor() {
  opening ??= new Promise((resolve) => {
    const door = $("door");
    door.addEventListener("close", () => {
      sessionStorage.setItem("token", $("token").value.trim());
      opening = null;
      resolve();
    }, { once: true });
    door.showModal();
  });
  return opening;
}

// ---- making elements ----

// Text is always text: nothing that a node tells becomes markup.
function make(tag, attributes = {}, ...children) {
  const svg = ["path", "circle", "text", "title", "g"].includes(tag) && attributes.svg;
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "svg") continue;
    if (name.startsWith("on")) element[name] = value;
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Puts rows into a table's body. A row is known again by what can be done in it.
function fill(id, rows) {
  morph($(id).tBodies[0], ...rows.map((cells) => {
    const row = make("tr", {}, ...cells.map((cell) => make("td", {}, cell)));
    const key = row.querySelector("[data-key]")?.dataset.key;
    if (key) row.dataset.row = key;
    return row;
  }));
}

const sign = (table, name) => {
  const [mark, look] = table[name] ?? ["?", "warn"];
  return make("span", { class: look }, `${mark} ${name}`);
};

const number = (value, digits = 0) => value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return `${number(count, unit ? 1 : 0)} ${units[unit]}`;
}

// ---- the head ----

function showVerdict(status) {
  const revision = status.revision
    ? `revision ${status.revision.epoch} on ${status.revision.nodes_on} of ${status.revision.nodes} nodes`
    : "no configuration yet";
  const [mark, look, word] = status.degraded ? ["▲", "warn", "degraded"] : ["✓", "good", "healthy"];
  const verdict = $("verdict");
  verdict.className = look;
  const text = `mesh ${word} · ${revision} · ${number(status.sessions.count)} sessions`;
  if (verdict.querySelector(".words").textContent !== text) {
    verdict.querySelector(".sign").textContent = mark;
    verdict.querySelector(".words").textContent = text;
  }
  $("asked").textContent = `asked ${status.node} · version ${status.version}`;
  morph($("problems"),
    ...status.problems.map((problem) => make("li", {}, problem)),
    ...status.warnings.map((warning) => make("li", { class: "soft" }, warning)));
}

function lost(error) {
  const verdict = $("verdict");
  verdict.className = "bad";
  verdict.querySelector(".sign").textContent = "✕";
  verdict.querySelector(".words").textContent = `this node does not answer (${error.message}); trying again`;
}

// ---- tiles ----

function spark(id, values) {
  const most = Math.max(...values, 0) || 1;
  const step = values.length > 1 ? 120 / (values.length - 1) : 0;
  const line = values.map((value, at) => `${at ? "L" : "M"}${(at * step).toFixed(1)} ${(27 - (value / most) * 25).toFixed(1)}`).join("");
  morph($(id).querySelector(".spark"), make("path", { svg: true, d: line || "M0 27" }));
}

function tile(id, text, look = "") {
  const value = $(id).querySelector(".value");
  value.textContent = text;
  value.className = `value ${look}`;
}

function showTraffic(traffic) {
  const seconds = traffic.seconds.slice(0, 60).reverse();
  const last = seconds.slice(-5);
  const mean = (key) => last.reduce((sum, second) => sum + second[key], 0) / Math.max(last.length, 1);
  const worst = (key) => Math.max(...last.map((second) => second[key] ?? -1), -1);
  const [requests, failed] = [mean("requests"), mean("failed")];
  tile("tile-requests", number(requests, 1));
  const success = requests > 0 ? 100 * (1 - failed / requests) : null;
  tile("tile-success", success === null ? "–" : `${success >= 99.9 ? "✓" : "▲"} ${number(success, 2)} %`, success === null || success >= 99.9 ? "" : "bad");
  const millis = (value) => (value < 0 ? "–" : `${number(value, value < 1 ? 2 : 0)} ms`);
  tile("tile-latency", `${millis(worst("p50_ms"))} / ${millis(worst("p99_ms"))}`);
  tile("tile-dns", number(mean("dns_queries"), 1));
  spark("tile-requests", seconds.map((second) => second.requests));
  spark("tile-success", seconds.map((second) => (second.requests ? 1 - second.failed / second.requests : 1)));
  spark("tile-latency", seconds.map((second) => second.p99_ms ?? 0));
  spark("tile-dns", seconds.map((second) => second.dns_queries));
}

// ---- regions and pools ----

function showRegions() {
  const rates = new Map((state.traffic?.regions ?? []).map((region) => [region.name, region]));
  const regions = state.regions.map((region) => {
    const total = region.pools.reduce((sum, pool) => sum + pool.total, 0);
    const healthy = region.pools.reduce((sum, pool) => sum + pool.healthy, 0);
    const look = region.nodes_alive === 0 || (total > 0 && healthy === 0) ? "bad" : healthy < total || region.nodes_alive < region.nodes.length ? "warn" : "good";
    return { ...region, total, healthy, look, rate: rates.get(region.name) };
  });
  drawMap($("map"), regions, make);
  const mark = { good: "✓", warn: "▲", bad: "✕" };
  fill("regions", regions.map((region) => [
    aged(make("span", { class: region.look }, `${mark[region.look]} ${region.name}`), region),
    `${region.nodes_alive} of ${region.nodes.length}`,
    `${region.healthy} of ${region.total}`,
    number(region.rate?.requests_per_second ?? 0, 1),
    number(region.in_flight),
    `${number(region.rate?.tunnels_out ?? 0)} / ${number(region.rate?.tunnels_in ?? 0)}`,
  ]));
}

function showPools(pools) {
  morph($("pools"), ...pools.map((pool) => {
    const takes = pool.backends.filter((backend) => ["up", "going-down", "unknown"].includes(backend.state)).length;
    const sum = (key) => number(pool.backends.reduce((all, backend) => all + backend[key], 0));
    const look = takes === pool.backends.length ? "good" : takes === 0 ? "bad" : "warn";
    return make("article", { class: "pool", "data-row": `pool/${pool.name}` },
      make("p", {}, make("strong", {}, pool.name), make("span", { class: look }, `${takes} of ${pool.backends.length} take new users`),
        make("span", { class: "soft" }, `${pool.balance} · ${sum("in_flight")} in flight · ${sum("sessions")} sessions`)),
      make("div", { class: "strip" }, ...pool.backends.map((backend) => {
        const [mark, colour] = BACKENDS[backend.state] ?? BACKENDS.unknown;
        const words = `${pool.name} ${backend.address} in ${backend.region}: ${backend.state}${backend.reason ? `, ${backend.reason}` : ""}`;
        return make("button", {
          class: `cell ${colour}${age(backend) ? " stale" : ""}`, title: words, "aria-label": words, "data-key": `${pool.name}/${backend.address}`, "data-state": backend.state,
          onclick: () => openBackend(pool, backend),
        }, mark);
      })));
  }));
}

function showLegend() {
  $("legend").replaceChildren(...Object.entries(BACKENDS).map(([name, [mark, look]]) => make("span", { class: look }, `${mark} ${name}`)));
}

// ---- nodes, orders ----

// What nobody tells any more is shown with how long that is so.
const age = (of) => (of.stale_seconds === null || of.stale_seconds === undefined ? "" : `heard ${of.stale_seconds} s ago`);
const aged = (shown, of) => (age(of) ? make("span", {}, shown, " ", make("span", { class: "soft age" }, age(of))) : shown);

function showNodes(status) {
  fill("nodes", status.members.map((member) => [
    aged(sign(NODES, member.state), member), member.name, member.region, member.zone ?? "–", member.version,
    member.revision ? member.revision.split(":")[0] : "–", member.address,
    make("button", { "data-key": `node/${member.name}`, onclick: () => openNode(member) }, member.state === "draining" ? "Undrain…" : "Drain…"),
  ]));
  const matrix = status.rtt_ms;
  const names = status.members.map((member) => member.name).filter((name) => matrix[name]);
  const silent = new Map(status.members.map((member) => [member.name, age(member)]));
  const row = (from) => make("tr", {}, make("th", { scope: "row" }, from), ...names.map((to) => {
    const rtt = matrix[from]?.[to];
    const unheard = [from, to].filter((name) => silent.get(name)).map((name) => `, ${name} ${silent.get(name)}`).join("");
    return make("td", { title: `${from} → ${to}${unheard}` }, from === to ? "·" : rtt === null || rtt === undefined ? "?" : number(rtt, rtt < 10 ? 1 : 0));
  }));
  morph($("rtt"),
    make("thead", {}, make("tr", {}, make("th", {}, "from \\ to, ms"), ...names.map((name) => make("th", { scope: "col" }, make("span", {}, name))))),
    make("tbody", {}, ...names.map(row)));
  fill("orders", status.intents.map((intent) => [
    `${intent.kind} ${intent.name}`, intent.order, intent.by, intent.at,
    undoPath(intent) && make("button", { "data-key": `undo/${intent.kind}/${intent.name}/${intent.order}`, onclick: () => act(undoPath(intent), "DELETE") }, "Take back"),
  ]));
}

function undoPath(intent) {
  const name = encodeURIComponent(intent.name);
  if (intent.order.startsWith("drain")) return `/v1/drains/${intent.kind}/${name}`;
  if (intent.order === "maintenance") return `/v1/maintenance/${intent.kind}/${name}`;
  if (intent.order.startsWith("weight")) return `/v1/weights/${name}`;
  if (intent.order.startsWith("split")) return `/v1/splits/${name}`;
  if (intent.order.startsWith("deny")) return `/v1/denies/${name}`;
  return null;
}

async function act(path, method) {
  await ask(path, { method });
  await refresh();
}

// ---- users, sessions, events, configuration ----

function showUsers(users) {
  fill("services", users.services.map((of) => [of.name, number(of.requests), number(of.failed), number(of.refused), bytes(of.sent_bytes)]));
  fill("networks", users.networks.map((of) => [
    of.network, `${of.doubt ? "≤ " : ""}${number(of.requests)}`, number(of.errors), bytes(of.sent_bytes),
    make("button", { "data-key": `deny/${of.network}`, onclick: () => openDeny(of) }, "Deny…"),
  ]));
}

function left(seconds) {
  if (seconds < 120) return `${seconds} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

async function showSessions() {
  const list = await json("/v1/sessions?limit=100");
  await atRest();
  $("session-count").textContent = `(${number(list.backends.reduce((sum, of) => sum + of.sessions, 0))})`;
  fill("sessions", list.sessions.map((of) => [make("code", {}, of.id), of.home, of.backend, of.assigned, left(of.seconds_left)]));
}

const events = [];
function showEvents() {
  const latest = [...events].sort((a, b) => a.at_ms - b.at_ms).slice(-200).reverse();
  morph($("events"), ...latest.map((event) => make("li", { "data-row": `event/${event.seq}` },
    make("time", {}, new Date(event.at_ms).toISOString().slice(0, 19).replace("T", " ")),
    make("span", { title: `seen by ${event.seen_by} nodes, first by this one` }, event.node),
    make("span", {}, event.kind), make("span", {}, event.subject || "–"), make("span", {}, event.text))));
}

// Which text stands below the history: the one in force, until another is asked for. What was asked for last stays, whichever answer
// comes last.
let pinned = null;
let turns = 0;
async function showRevision(pin, lines) {
  const turn = ++turns;
  pinned = pin;
  try {
    const shown = await lines();
    if (turn === turns) morph($("revision"), ...shown.map(([look, text]) => make("span", { class: look }, text)));
  } catch (error) {
    // The one in force comes back with the next look.
    if (turn === turns) pinned = null;
    throw error;
  }
}

async function showRevisions() {
  const { revisions } = await json("/v1/revisions");
  const id = (of) => `${of.epoch}:${of.hash}`;
  const text = async (of) => (of ? (await ask(`/v1/revisions/${id(of)}`)).text() : "");
  const whole = (of) => async () => [["", await text(of)]];
  const change = (of) => async () => {
    const parent = revisions.find((other) => other.hash === of.parent);
    const look = (sign) => ({ "+": "plus", "-": "minus" })[sign] ?? "";
    return diff(await text(parent), await text(of)).map(([sign, line]) => [look(sign), `${sign} ${line}\n`]);
  };
  const current = revisions.find((of) => of.state === "current");
  if (!pinned) {
    if (current) await showRevision(null, whole(current));
    else $("revision").textContent = "no configuration was applied yet";
  }
  await atRest();
  const button = (word, of, pin, lines, words) =>
    make("button", { "data-key": `${word}/${id(of)}`, onclick: () => showRevision(pin, lines).catch(lost) }, words);
  fill("revisions", revisions.map((of) => [
    String(of.epoch), sign(REVISIONS, of.state), of.author, of.time, `${of.nodes_on.length}`,
    make("span", {},
      button("show", of, of === current ? null : id(of), whole(of), "Show"), " ",
      button("diff", of, id(of), change(of), "What changed")),
  ]));
}

// ---- dialogs ----

function openDialog({ title, facts, impact, command, actions }) {
  $("dialog-title").textContent = title;
  $("dialog-facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]));
  $("dialog-impact").textContent = impact;
  $("dialog-command").textContent = command;
  $("dialog-error").textContent = "";
  const button = ([words, path, method, look]) => make("button", { type: "button", class: look, "data-act": words, onclick: async (event) => {
    event.target.disabled = true;
    try {
      await act(path, method);
      $("dialog").close();
    } catch (error) {
      $("dialog-error").textContent = error.message;
      event.target.disabled = false;
    }
  } }, words);
  $("dialog-actions").replaceChildren(...actions.map(button), make("button", { value: "cancel" }, "Close"));
  $("dialog").showModal();
}

function openBackend(pool, backend) {
  const name = `${pool.name}/${backend.address}`;
  const path = encodeURIComponent(name);
  const others = pool.backends.filter((other) => other !== backend && ["up", "going-down", "unknown"].includes(other.state)).length;
  const out = ["draining", "maintenance"].includes(backend.state);
  openDialog({
    title: `Backend ${backend.address}`,
    facts: { Pool: pool.name, Region: backend.region + (backend.zone ? ` / ${backend.zone}` : ""), State: backend.state, Why: backend.reason || "–", Weight: backend.weight,
      "In flight": number(backend.in_flight), Sessions: number(backend.sessions), Requests: number(backend.requests), Source: backend.source },
    impact: out
      ? "It takes new users again as soon as it is given back."
      : `Draining keeps its ${number(backend.sessions)} sessions and ${others
        ? `sends new users to the ${others} other backends of the pool that take them`
        : "leaves new users to other pools of the service: no other backend of this pool takes them"}. Maintenance moves the sessions ${others ? "to other backends " : ""}with their next request.`,
    command: out ? `meridian undrain backend ${name}` : `meridian drain backend ${name}`,
    actions: out
      ? [["Give back", `/v1/drains/backend/${path}`, "DELETE", ""]]
      : [["Drain", `/v1/drains/backend/${path}`, "PUT", "danger"], ["Maintenance", `/v1/maintenance/backend/${path}`, "PUT", "danger"]],
  });
}

function openNode(member) {
  const out = member.state === "draining";
  const others = state.status.members.filter((other) => other.name !== member.name && other.region === member.region && other.state === "alive").length;
  openDialog({
    title: `Node ${member.name}`,
    facts: { Region: member.region, State: [member.state, age(member)].filter(Boolean).join(", "), Version: member.version, Public: member.public.join(", ") || "–" },
    impact: out
      ? "DNS names it again, and other regions send their rescued users to it."
      : `DNS names it no more, so new users come to the ${others} other living nodes of ${member.region}${others ? "" : ", that is to another region"}. Who is connected is served.`,
    command: out ? `meridian undrain node ${member.name}` : `meridian drain node ${member.name}`,
    actions: [out ? ["Undrain", `/v1/drains/node/${encodeURIComponent(member.name)}`, "DELETE", ""] : ["Drain", `/v1/drains/node/${encodeURIComponent(member.name)}`, "PUT", "danger"]],
  });
}

function openDeny(of) {
  const path = `/v1/denies/${encodeURIComponent(of.network)}?seconds=3600`;
  openDialog({
    title: `Refuse ${of.network}`,
    facts: { Requests: number(of.requests), Errors: number(of.errors) },
    impact: "Every service of the mesh refuses all users of this network for an hour; it can be taken back under Nodes.",
    command: `meridian deny add ${of.network} --for 1h`,
    actions: [["Refuse for an hour", path, "PUT", "danger"]],
  });
}

$("where").addEventListener("submit", async (event) => {
  event.preventDefault();
  const asked = new URLSearchParams(new FormData(event.target));
  const answer = $("answer");
  try {
    const told = await json(`/v1/dns/explain?${asked}`);
    const view = told.views[0];
    const steering = view.steering;
    const words = steering
      ? [`${steering.region ?? "nobody"} by ${steering.source}, ${steering.step}; the order is ${steering.order.join(", ")}`,
        steering.skipped.length ? `passed over: ${steering.skipped.map((skip) => `${skip.region} (${skip.why})`).join(", ")}` : null]
      : [view.zone ? "this name is not steered" : "no zone here answers for this name"];
    answer.replaceChildren(
      make("p", {}, make("strong", {}, steering?.region ?? view.rcode), ` ← ${view.client}`),
      ...words.filter(Boolean).map((line) => make("p", {}, line)),
      make("pre", {}, view.answers.join("\n") || view.rcode),
      make("p", {}, "The same from a shell: ", make("code", {}, `meridian dns explain ${asked.get("name")} --from ${asked.get("from")}`)));
  } catch (error) {
    answer.replaceChildren(make("p", { class: "bad" }, `✕ ${error.message}`));
  }
});

// ---- tabs ----

const tabs = [...document.querySelectorAll("[role=tab]")];
function choose(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  history.replaceState(null, "", `#${tab.id.slice(4)}`);
  showView().catch(lost);
}
for (const tab of tabs) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    next.focus();
    choose(next);
  });
}
const view = () => tabs.find((tab) => tab.getAttribute("aria-selected") === "true").id.slice(4);

async function showView() {
  if (view() === "users") {
    const users = await json("/v1/users");
    await atRest();
    showUsers(users);
  }
  if (view() === "sessions") await showSessions();
  if (view() === "revisions") await showRevisions();
  if (view() === "events") showEvents();
}

// ---- the loop ----

let running = null;
function refresh() {
  running ??= (async () => {
    try {
      const [status, regions, traffic] = await Promise.all([json("/v1/status"), json("/v1/regions"), json("/v1/traffic")]);
      await atRest();
      Object.assign(state, { status, regions, traffic });
      showVerdict(status);
      showTraffic(traffic);
      showRegions();
      showPools(status.pools);
      showNodes(status);
      await showView();
    } catch (error) {
      lost(error);
    } finally {
      running = null;
    }
  })();
  return running;
}

// What happens is told at once; the rest is asked for every two seconds.
async function follow() {
  let last = null;
  for (;;) {
    try {
      const headers = { accept: "text/event-stream", ...(last ? { "last-event-id": last } : {}) };
      const response = await ask("/v1/events", { headers });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        const parts = text.split("\n\n");
        text = parts.pop();
        for (const part of parts) {
          const field = (name) => part.split("\n").find((line) => line.startsWith(name))?.slice(name.length).trim();
          const id = field("id:") ?? last;
          // Another node, or one that lost its log, tells all that it has.
          if (id?.split(".")[0] !== last?.split(".")[0]) events.length = 0;
          last = id;
          const data = field("data:");
          if (!data) continue;
          events.push(JSON.parse(data));
          events.splice(0, Math.max(0, events.length - 1000));
          soon();
        }
      }
    } catch (error) {
      lost(error);
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

let waiting = false;
function soon() {
  if (waiting) return;
  waiting = true;
  setTimeout(() => { waiting = false; refresh(); }, 200);
}

showLegend();
const wanted = tabs.find((tab) => tab.id === `tab-${location.hash.slice(1)}`);
if (wanted) choose(wanted);
refresh();
setInterval(() => { if (!document.hidden) refresh(); }, POLL_MS);
follow();
