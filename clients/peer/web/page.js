"use strict";
// Asks the node once a second and draws what it says. Names and words come from other
// peers: they are only ever set as text.
const token = location.hash.slice(1);
const SVG = "http://www.w3.org/2000/svg";
const past = { up: [], down: [], entries: [] };
const MOST = 120;
const $ = (id) => document.getElementById(id);

function node(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function size(count) {
  for (const unit of ["B", "kB", "MB"]) {
    if (count < 1000) return (unit === "B" ? count.toFixed(0) : count.toFixed(1)) + " " + unit;
    count /= 1000;
  }
  return count.toFixed(1) + " GB";
}

function span(seconds) {
  if (seconds === null) return "never";
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]])
    if (seconds >= length) return Math.round(seconds / length) + " " + unit;
  return Math.round(seconds) + " s";
}

const kindOf = (path) => path.startsWith("direct") ? "direct"
  : path.startsWith("relayed") ? "relayed" : "waiting";
const short = (peer) => peer.slice(-8);
const wayOf = (path) => path.replace(/12D3KooW\w{36}(\w{8})/g, "$1");

function drawMap(status) {
  const map = $("map"), peers = status.peers.filter((p) => p.status === "in");
  const parts = [], dots = [];
  peers.forEach((peer, i) => {
    const angle = Math.PI * (2 * i + 1) / peers.length - Math.PI / 2;
    const x = 320 + 225 * Math.cos(angle), y = 160 + 115 * Math.sin(angle);
    const kind = kindOf(peer.path);
    const line = shape("line", { x1: 320, y1: 160, x2: x, y2: y, class: kind });
    line.append(shape("title", {}, wayOf(peer.path)));
    parts.push(line);
    if (peer.rtt_s !== null) {
      const place = { x: (320 + x) / 2, y: (160 + y) / 2 - 5, class: "soft", "text-anchor": "middle" };
      parts.push(shape("text", place, (1000 * peer.rtt_s).toFixed(1) + " ms"));
    }
    dots.push(shape("circle", { cx: x, cy: y, r: 14, class: peer.alive ? "" : "gone" }));
    const place = { x, y: y + (y < 160 ? -20 : 32), "text-anchor": "middle" };
    dots.push(shape("text", place, peer.name + " " + short(peer.peer).slice(-4)));
  });
  dots.push(shape("circle", { cx: 320, cy: 160, r: 18, class: "me" }));
  dots.push(shape("text", { x: 320, y: 200, "text-anchor": "middle" }, status.name));
  map.replaceChildren(...parts, ...dots);
}

function drawPeers(peers) {
  $("peers").replaceChildren(...peers.map((peer) => {
    const row = node("tr"), way = node("td"), kind = kindOf(peer.path);
    way.append(node("span", kind === "waiting" ? peer.path.split(":")[0] : kind, "way " + kind));
    way.append(" " + wayOf(peer.path).replace(/^(direct|relayed|waiting):? ?/, ""));
    row.append(node("td", peer.name + " " + short(peer.peer)), node("td", peer.role), way,
      node("td", peer.rtt_s === null ? "-" : (1000 * peer.rtt_s).toFixed(1) + " ms"),
      node("td", size(peer.up_bytes)), node("td", size(peer.down_bytes)),
      node("td", peer.version || "-"),
      node("td", peer.alive ? "now" : span(peer.seen_s) + (peer.seen_s === null ? "" : " ago")));
    return row;
  }));
}

function drawContents(items) {
  $("contents").replaceChildren(...items.map((item) => {
    const row = node("tr"), here = node("td");
    const meter = node("meter");
    meter.value = item.share;
    here.append(item.here ? "all" : meter, item.failed ? " " + item.failed : "");
    const name = node("td", item.name);
    name.title = item.cid;
    row.append(name, node("td", item.version), node("td", size(item.bytes)), here,
      node("td", short(item.by)));
    return row;
  }));
}

function curve(values, top, kind) {
  const step = 300 / (MOST - 1);
  const points = values.map((v, i) => `${(i * step).toFixed(1)},${(84 - 78 * v / top).toFixed(1)}`);
  return shape("path", { d: "M" + points.join("L"), class: kind });
}

function remember(name, value) {
  past[name].push(value);
  if (past[name].length > MOST) past[name].shift();
}

function drawCharts(status) {
  remember("up", status.traffic.up_bytes_s);
  remember("down", status.traffic.down_bytes_s);
  remember("entries", status.entries);
  const top = Math.max(1000, ...past.up, ...past.down);
  $("traffic").replaceChildren(curve(past.up, top, "up"), curve(past.down, top, "down"));
  const caps = [status.traffic.up_cap_bytes_s, status.traffic.down_cap_bytes_s]
    .map((cap) => cap === null ? "" : " of at most " + size(cap) + "/s");
  $("rates").textContent = "sending " + size(status.traffic.up_bytes_s) + "/s" + caps[0]
    + ", receiving " + size(status.traffic.down_bytes_s) + "/s" + caps[1];
  $("growth").replaceChildren(curve(past.entries, Math.max(1, ...past.entries), "grown"));
  $("entries").textContent = status.entries + " entries of " + status.writers + " writers";
}

function drawFacts(status) {
  const facts = [["state hash", status.root.slice(0, 16)],
    ["members", status.alive + " of " + status.members + " here"],
    ["own role", status.role], ["own id", short(status.peer)],
    ["reachable", status.reachable.words],
    ["relays", status.relays.map((r) => short(r.peer) + " " + r.words).join("; ") || "none set"],
    ["sent", size(status.traffic.up_bytes)], ["received", size(status.traffic.down_bytes)],
    ...status.runs.map((r) => ["run " + r.run, r.additions + " additions, " + r.own
      + " of them ours" + (r.loss === null ? "" : ", loss " + r.loss.toFixed(4))]),
    ["memory", size(status.memory_bytes)], ["running", span(status.uptime_s)],
    ...status.forks.map((words) => ["fork", wayOf(words)])];
  $("facts").replaceChildren(...facts.flatMap(([k, v]) => [node("dt", k), node("dd", v)]));
}

function drawNotes(notes) {
  $("notes").replaceChildren(...notes.slice(-60).reverse().map((note) => {
    const row = node("li");
    row.append(node("time", new Date(1000 * note.at_s).toLocaleTimeString()),
      note.kind + ": " + note.words);
    return row;
  }));
}

function draw(status) {
  $("name").textContent = status.name;
  $("network").textContent = "in " + status.network.name;
  document.title = status.name + ": " + status.state;
  $("state").textContent = status.state;
  $("state").className = "state " + status.state;
  $("why").textContent = wayOf(status.why);
  drawMap(status);
  drawPeers(status.peers);
  drawContents(status.contents);
  drawCharts(status);
  drawFacts(status);
  drawNotes(status.notes);
}

function trouble(words) {
  $("state").textContent = "no answer";
  $("state").className = "state waiting";
  $("why").textContent = words;
}

async function turn() {
  try {
    const answer = await fetch("/api/status", { headers: { Authorization: "Bearer " + token } });
    if (answer.ok) draw(await answer.json());
    else if (answer.status === 401) trouble("open the address that `fedcore peer status` shows");
    else trouble(await answer.text());
  } catch {
    trouble("the node does not run; start it with `fedcore peer up`");
  }
  setTimeout(turn, 1000);
}

turn();
