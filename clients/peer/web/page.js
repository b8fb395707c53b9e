"use strict";
// Asks the node once a second and draws what it says. Names and words come from other
// peers: they are only ever set as text.
const token = location.hash.slice(1);
const SVG = "http://www.w3.org/2000/svg";
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
  const parts = [], dots = [], many = peers.length > 16;
  peers.forEach((peer, i) => {
    // Nobody is right below: there our own name stands.
    const angle = Math.PI * (2 * i + 1) / peers.length + Math.PI / 2, far = many && i % 2 ? .62 : 1;
    const dx = 225 * far * Math.cos(angle), dy = 112 * far * Math.sin(angle);
    const x = 320 + dx, y = 158 + dy, kind = kindOf(peer.path);
    const line = shape("line", { x1: 320, y1: 158, x2: x, y2: y, class: kind });
    line.append(shape("title", {}, wayOf(peer.path)));
    parts.push(line);
    if (peer.rtt_s !== null && !many) {
      const place = { x: 320 + .58 * dx, y: 154 + .58 * dy, class: "soft", "text-anchor": "middle" };
      parts.push(shape("text", place, (1000 * peer.rtt_s).toFixed(1) + " ms"));
    }
    dots.push(shape("circle", { cx: x, cy: y, r: many ? 8 : 14, class: peer.alive ? "" : "gone" }));
    const place = { x, y: y + (dy < 0 ? -20 : 32), "text-anchor": "middle" };
    dots.push(shape("text", place, peer.name + (many ? "" : " " + short(peer.peer).slice(-4))));
  });
  dots.push(shape("circle", { cx: 320, cy: 158, r: 18, class: "me" }));
  dots.push(shape("text", { x: 320, y: 198, "text-anchor": "middle" }, status.name));
  map.replaceChildren(...parts, ...dots);
}

function emptyRow(words, width) {
  const row = node("tr"), cell = node("td", words, "empty");
  cell.colSpan = width;
  row.append(cell);
  return row;
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
  if (!peers.length)
    $("peers").append(emptyRow("nobody else is a member yet: fedcore peer invite", 8));
}

function drawContents(items, inAll) {
  $("more").textContent = inAll > items.length ? "and " + (inAll - items.length) + " more" : "";
  if (!items.length) {
    $("contents").replaceChildren(emptyRow("nothing is shared yet: fedcore peer put FILE", 5));
    return;
  }
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

// Draws rows of figures, newest last, over one axis; the oldest is `ago` old.
function chart(svg, rows, top, label, ago, width = 300) {
  const left = 8, right = width - 8, base = 92, high = 18;
  svg.setAttribute("viewBox", `0 0 ${width} 110`);
  const parts = [shape("path", { d: `M${left} ${base}H${right}`, class: "axis" })];
  for (const [values, kind] of rows) {
    const step = (right - left) / Math.max(1, values.length - 1);
    const points = values.map((v, i) =>
      `${(left + i * step).toFixed(1)},${(base - (base - high) * v / (top || 1)).toFixed(1)}`);
    if (values.length > 1) parts.push(shape("path", { d: "M" + points.join("L"), class: kind }));
  }
  parts.push(shape("text", { x: left, y: 11, class: "soft" }, label));
  parts.push(shape("text", { x: left, y: 106, class: "soft" }, ago));
  parts.push(shape("text", { x: right, y: 106, class: "soft", "text-anchor": "end" }, "now"));
  svg.replaceChildren(...parts);
}

function key(place, ...parts) {
  place.replaceChildren(...parts.flatMap(([kind, words]) =>
    kind ? [node("i", "", kind), " " + words] : [words]));
}

function drawCharts(status) {
  const { every_s, entries = [], additions = [], up_bytes_s = [], down_bytes_s = [] } = status.history;
  const ago = (values) => values.length < 2 ? "" : span(every_s * (values.length - 1)) + " ago";
  const fastest = Math.max(1, ...up_bytes_s, ...down_bytes_s);
  chart($("traffic"), [[up_bytes_s, "up"], [down_bytes_s, "down"]], fastest,
    size(fastest) + "/s", ago(up_bytes_s));
  const caps = [status.traffic.up_cap_bytes_s, status.traffic.down_cap_bytes_s]
    .map((cap) => cap === null ? "" : " of at most " + size(cap) + "/s");
  key($("rates"), ["up", "sending " + size(status.traffic.up_bytes_s) + "/s" + caps[0]],
    ["down", "receiving " + size(status.traffic.down_bytes_s) + "/s" + caps[1]]);
  chart($("growth"), [[entries, "grown"]], Math.max(1, ...entries), String(status.entries), ago(entries));
  key($("entries"), ["", status.entries + " signed entries of " + status.writers + " writers"]);
  chart($("additions"), [[additions, "down"]], Math.max(1, ...additions), String(status.additions),
    ago(additions));
  key($("added"), ["", status.additions + " additions to " + status.runs.length
    + (status.runs.length === 1 ? " run" : " runs")]);
}

function drawBars(run, status) {
  const names = Object.fromEntries(status.peers.map((p) => [p.peer, p.name]));
  const rows = Object.entries(run.by), most = Math.max(1, ...rows.map((row) => row[1]));
  const svg = shape("svg", { viewBox: `0 0 520 ${Math.max(1, rows.length) * 20 + 4}`, role: "img",
    "aria-label": "Additions of each member" });
  rows.forEach(([peer, count], i) => {
    const mine = peer === status.peer, name = mine ? status.name : names[peer] || short(peer);
    svg.append(shape("text", { x: 0, y: 20 * i + 14, class: "soft" }, name.slice(0, 14)));
    svg.append(shape("rect", { x: 90, y: 20 * i + 4, height: 13, width: 380 * count / most,
      class: mine ? "me" : "" }));
    svg.append(shape("text", { x: 95 + 380 * count / most, y: 20 * i + 14, class: "soft" }, count));
  });
  return svg;
}

function drawRuns(status) {
  $("training").hidden = !status.runs.length;
  $("runs").replaceChildren(...status.runs.slice(0, 8).map((run) => {
    const box = node("div", undefined, "run");
    const loss = run.loss === null ? "" : "; our loss now " + run.loss.toFixed(4);
    box.append(node("p", run.run + ": " + run.additions + " additions, " + run.own + " of them ours" + loss));
    box.append(drawBars(run, status));
    if (run.losses.length > 1) {
      const worst = Math.max(...run.losses), svg = shape("svg", { role: "img", "aria-label": "Loss over our additions" });
      chart(svg, [[run.losses, "down"]], worst, "our loss, from " + run.losses[0].toFixed(3),
        "our last " + run.losses.length + " additions", 520);
      box.append(svg);
    } else box.append(node("p", "no training here yet: fedcore peer train " + run.run, "empty"));
    return box;
  }));
}

function drawFacts(status) {
  const facts = [["state hash", status.root.slice(0, 16)],
    ["members", status.alive + " of " + status.members + " here"],
    ["own role", status.role], ["own id", short(status.peer)],
    ["reachable", status.reachable.words],
    ["relays", status.relays.map((r) => short(r.peer) + " " + r.words).join("; ") || "none set"],
    ["sent", size(status.traffic.up_bytes)], ["received", size(status.traffic.down_bytes)],
    ["content", size(status.content_bytes) + " here"],
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
  drawContents(status.contents, status.contents_in_all);
  drawCharts(status);
  drawRuns(status);
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
