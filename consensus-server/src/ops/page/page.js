// The status page: asks this node once a second or two how every node of its cluster stands, and shows it.
// Everything is put in as text, never as markup: names come from other machines.
"use strict";

const EVERY_MS = 2000;
// The node itself waits a second for the others.
const PATIENCE_MS = 5000;
// Above these a node is pointed out.
const LAG_BLOCKS = 10;
const SYNC_SLOW_MS = 500;

// Chain and node of those that were behind at the last look: one look alone may catch them between two blocks.
let lagged = new Set();

const number = new Intl.NumberFormat("en-US");

// A new element; children are elements or text.
function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function ago(ms) {
  if (!Number.isFinite(ms)) return "never";
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 2) return "now";
  if (seconds < 120) return `${Math.round(seconds)} s ago`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

function list(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

function count(quantity, one, many) {
  return `${number.format(quantity)} ${quantity === 1 ? one : many}`;
}

function nodes(ids) {
  return `node${ids.length === 1 ? "" : "s"} ${list(ids)}`;
}

// What one node says of a chain, or nothing if it does not answer.
function standing(node, name) {
  return node.reached ? (node.status.chains || []).find((chain) => chain.chain === name) : undefined;
}

// One chain as the nodes that answer see it together.
function gather(cluster, name) {
  const members = cluster.nodes.map((node) => ({ node, chain: standing(node, name) }));
  const answering = members.filter((member) => member.chain);
  const newest = answering.reduce((term, member) => Math.max(term, member.chain.term), 0);
  const leader = answering.find((member) => member.chain.role === "leader" && member.chain.term === newest);
  const top = answering.reduce((height, member) => Math.max(height, member.chain.height), 0);
  const source = leader || answering.find((member) => member.node.own) || answering[0];
  const voters = source ? source.chain.voters : [];
  return { name, members, answering, leader, top, voters, source };
}

// Whether a node answers, or, where nodes do not ask each other, was heard lately.
function isUp(node) {
  return node.reached || (node.unasked && node.connected);
}

function isBehind(view, chain) {
  return view.top - chain.height > LAG_BLOCKS;
}

// Who leads: the leader itself says so, or one who cannot ask it has heard it.
function leads(view) {
  if (view.leader) return view.leader.node.node_id;
  const heard = view.members.find((member) => member.node.unasked && isUp(member.node) && view.source && member.node.node_id === view.source.chain.leader_id);
  return heard ? heard.node.node_id : undefined;
}

// How it is with a chain: one line for a glance, and what there is to look at.
function judge(view) {
  const { members, answering, top, voters } = view;
  const trouble = [];
  const silent = members.filter((member) => !isUp(member.node)).map((member) => member.node.node_id);
  if (silent.length) trouble.push(`${nodes(silent)} ${silent.length === 1 ? "does" : "do"} not answer`);
  for (const { node, chain } of answering) {
    const id = node.node_id;
    if (!node.status.ready && leads(view)) trouble.push(`node ${id} is not ready: ${node.status.not_ready_reason}`);
    if (chain.state !== "running") trouble.push(`node ${id} has halted: ${chain.halt_reason}`);
    if (isBehind(view, chain) && lagged.has(`${view.name}/${id}`)) trouble.push(`node ${id} is ${count(top - chain.height, "block", "blocks")} behind`);
    if (chain.sync_time_us / 1000 > SYNC_SLOW_MS) trouble.push(`the disk of node ${id} is slow: ${number.format(Math.round(chain.sync_time_us / 1000))} ms for a sync`);
    for (const alarm of node.status.alarms || []) trouble.push(`node ${id}: ${alarm}`);
  }
  // The same tip is the same chain: hashes cover everything before.
  const tips = new Map();
  for (const { node, chain } of answering) {
    if (!chain.tip_hash) continue;
    const known = tips.get(chain.height);
    if (known && known.hash !== chain.tip_hash) trouble.unshift(`nodes ${known.id} and ${node.node_id} have different blocks at height ${number.format(chain.height)}`);
    else tips.set(chain.height, { id: node.node_id, hash: chain.tip_hash });
  }
  const forked = trouble.length && trouble[0].includes("different blocks");
  const majority = Math.floor(voters.length / 2) + 1;
  const runs = (member) => isUp(member.node) && (!member.chain || member.chain.state === "running");
  const up = members.filter((member) => voters.includes(member.node.node_id) && runs(member)).length;
  if (!answering.length) return { level: "bad", words: "No node has this chain", trouble };
  if (forked) return { level: "bad", words: "The chain has forked", trouble };
  if (!leads(view) && up < majority) {
    return { level: "bad", words: `Stands still: ${up} of ${voters.length} voters answer, ${majority} are needed`, trouble };
  }
  if (!leads(view)) return { level: "bad", words: "No leader: an election is under way, or the leader is out of reach from here", trouble };
  const words = `Node ${leads(view)} leads, height ${number.format(top)}`;
  if (up === majority && voters.length > majority) trouble.push("one more voter lost, and the chain stands still");
  return { level: trouble.length ? "warn" : "well", words: trouble.length ? `Works. ${words}` : `All well. ${words}`, trouble };
}

function row(view, member, now) {
  const { node, chain } = member;
  const cells = [];
  const cell = (name, text, kind) => cells.push(make("td", { "data-name": name, class: kind || "" }, text));
  cell("node", node.own ? `${node.node_id} (asked)` : `${node.node_id}`);
  cell("address", node.address || "", "left");
  if (!chain) {
    const progress = view.source && (view.source.chain.peers || []).find((peer) => peer.node_id === node.node_id);
    const heard = progress ? progress.last_heard_ms : node.last_heard_ms;
    const silence = node.reached ? "has no such chain" : "no answer";
    cell("role", isUp(node) && !node.reached ? "heard" : silence, isUp(node) && !node.reached ? "left" : "left bad");
    for (const name of ["term", "height", "behind", "sync"]) cell(name, "");
    const lag = view.leader && progress && progress.matched ? `; ${count(Math.max(0, view.leader.chain.last_index - progress.matched), "entry", "entries")} behind` : "";
    cell("heard", `${heard ? ago(now - heard) : "never"}${lag}`, "left");
    cell("ready", node.why || "", "words");
    return make("tr", { class: isUp(node) ? "" : "gone" }, ...cells);
  }
  const behind = view.top - chain.height;
  const slow = chain.sync_time_us / 1000 > SYNC_SLOW_MS;
  cell("role", chain.state === "running" ? chain.role : "halted", chain.state === "running" ? "left" : "left bad");
  cell("term", number.format(chain.term));
  cell("height", number.format(chain.height));
  cell("behind", behind > 0 ? number.format(behind) : "0", behind > LAG_BLOCKS ? "warn" : "");
  cell("sync", chain.sync_time_us ? `${(chain.sync_time_us / 1000).toFixed(1)} ms` : "", slow ? "warn" : "");
  cell("heard", "now", "left");
  cell("ready", node.status.ready ? "ready" : node.status.not_ready_reason, node.status.ready ? "words well" : "words warn");
  return make("tr", { class: node.own ? "own" : "" }, ...cells);
}

function changes(view, now) {
  const newest = view.source ? view.source.chain.recent_leader_changes || [] : [];
  if (!newest.length) return [];
  const items = [...newest].reverse().slice(0, 5).map((change) =>
    make("li", {}, `${change.leader_id ? `node ${change.leader_id}` : "no leader"} in term ${number.format(change.term)}, ${ago(now - change.at_ms)}`));
  return [make("h2", {}, "Last leader changes"), make("ul", { class: "changes" }, ...items)];
}

function section(cluster, name) {
  const view = gather(cluster, name);
  const { level, words, trouble } = judge(view);
  const verdict = make("div", { class: `verdict ${level}`, role: "status" }, words);
  if (trouble.length) verdict.append(make("ul", {}, ...trouble.map((text) => make("li", {}, text))));
  const names = ["node", "address", "role", "term", "height", "behind", "sync", "heard", "ready"];
  const left = ["address", "role", "heard", "ready"];
  const head = make("tr", {}, ...names.map((text) => make("th", { scope: "col", class: left.includes(text) ? "left" : "" }, text)));
  const body = view.members.map((member) => row(view, member, cluster.now_ms));
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
  return make("section", { "data-chain": name, "data-level": level }, make("h2", {}, `Chain ${name}`), verdict, table, ...changes(view, cluster.now_ms));
}

function show(cluster) {
  const names = [...new Set(cluster.nodes.flatMap((node) => (node.reached ? node.status.chains || [] : []).map((chain) => chain.chain)))].sort();
  document.title = cluster.cluster;
  document.getElementById("cluster").textContent = cluster.cluster;
  document.getElementById("asked").textContent = `as node ${cluster.asked} sees it, ${new Date(cluster.now_ms).toLocaleTimeString()}`;
  const sections = names.map((name) => section(cluster, name));
  const views = names.map((name) => gather(cluster, name));
  const behind = (view) => view.answering.filter((member) => isBehind(view, member.chain)).map((member) => `${view.name}/${member.node.node_id}`);
  lagged = new Set(views.flatMap(behind));
  const none = make("div", { class: "verdict bad", role: "status" }, "This node has no chain yet");
  document.getElementById("chains").replaceChildren(...(sections.length ? sections : [none]));
}

function unreachable(why) {
  document.getElementById("asked").textContent = "";
  const words = make("div", { class: "verdict bad", role: "status" }, `This node does not answer: ${why}`);
  const before = document.querySelectorAll("#chains > section");
  document.getElementById("chains").replaceChildren(words, ...before);
}

async function turn() {
  try {
    const answer = await fetch("cluster", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    show(await answer.json());
  } catch (error) {
    unreachable(error.message);
  }
  setTimeout(turn, EVERY_MS);
}

turn();
