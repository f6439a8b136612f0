// Nodes of the conversation. Whatever a model or a server says becomes text, never markup.

/** Make a node; `on...` props are listeners, other props that are not null are attributes. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== false && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const button = (label, onclick, props = {}) =>
  el("button", { type: "button", onclick, ...props }, label);

export function percent(logprob) {
  const share = Math.exp(logprob) * 100;
  if (share < 0.1) return "< 0.1 %";
  return share > 99.9 ? "> 99.9 %" : `${share.toFixed(1)} %`;
}

/** A token as a person can see it: blanks and line ends are drawn. */
export const visible = (text) => text.replace(/\n/g, "⏎").replace(/^ | $/g, "·") || "∅";

/** How sure the model was of a token: the class that draws the line under it. */
const sureness = (logprob) => (logprob > -0.1 ? "sure" : logprob > -0.7 ? "unsure" : "guess");

/** A token's text, its words (not the blank before them) underlined by how sure it was. */
export function marked(text, logprob) {
  const words = text.trimStart();
  return [text.slice(0, text.length - words.length), el("u", { class: sureness(logprob) }, words)];
}

/** Let a line of tokens (nodes with data-index) be picked by pointer and by arrow keys. */
export function pickable(strip, pick, leave = () => {}) {
  let picked = null;
  const choose = (node) => {
    if (!node || node === picked) return;
    picked?.classList.remove("picked");
    picked = node;
    node.classList.add("picked");
    pick(Number(node.dataset.index), node);
  };
  const drop = () => {
    picked?.classList.remove("picked");
    picked = null;
    leave();
  };
  const over = (event) => choose(event.target.closest("[data-index]"));
  strip.addEventListener("pointerover", over);
  strip.addEventListener("click", over);
  strip.addEventListener("pointerleave", drop);
  strip.addEventListener("blur", drop);
  strip.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = [...strip.querySelectorAll("[data-index]")];
    const here = picked?.isConnected ? all.indexOf(picked) : step > 0 ? -1 : all.length;
    choose(all[Math.min(all.length - 1, Math.max(0, here + step))]);
  });
}

const card = () => document.querySelector("#card");
export const hideCard = () => { card().hidden = true; };

/** Show a token's probability and its rivals beside its node. */
export function showCard(anchor, tokens) {
  const rows = tokens.flatMap(({ token, logprob, top }) => {
    const rivals = top.some(([text]) => text === token) ? top : [[token, logprob], ...top];
    return rivals.map(([text, value]) => {
      const bar = el("i");
      bar.style.width = `${Math.max(1, Math.exp(value) * 100)}%`;
      return el("li", { class: text === token ? "taken" : null },
        el("b", {}, visible(text)), el("span", {}, percent(value)), bar);
    });
  });
  card().replaceChildren(el("ul", {}, ...rows));
  card().hidden = false;
  const at = anchor.getClientRects()[0] ?? anchor.getBoundingClientRect();
  const { width, height } = card().getBoundingClientRect();
  const below = at.bottom + 8 + height < window.innerHeight;
  card().style.left = `${Math.max(8, Math.min(at.left, window.innerWidth - width - 8))}px`;
  card().style.top = `${below ? at.bottom + 8 : Math.max(8, at.top - height - 8)}px`;
}

/** The span of a piece of an answer, as it came. */
export function pieceNode(piece, index) {
  const worst = Math.min(0, ...piece.tokens.map((token) => token.logprob));
  const known = piece.tokens.length > 0;
  return el("span", { "data-index": known ? index : null }, ...marked(piece.text, worst));
}

/** An image of a chat or of the composer. */
export const thumbnail = ({ name, data }) => el("img", {
  src: data, alt: name, title: name, onerror: (event) => event.target.classList.add("broken") });

function question(message, actions) {
  const node = el("li", { class: "question" });
  if (message.images.length) {
    node.append(el("div", { class: "images" }, ...message.images.map(thumbnail)));
  }
  node.append(el("div", { class: "said" },
    el("p", { class: "text" }, message.text),
    actions.again && button("Ask again", actions.again),
    button("Edit", actions.edit, { "aria-label": "Edit this question" })));
  return node;
}

function answer(message, actions) {
  const text = el("div", {
    class: "text tokens", tabindex: "0", role: "group", "aria-label": "Answer",
    "aria-description": "Arrow keys step through its tokens and tell their probabilities",
  });
  const node = el("li", { class: "answer" },
    document.querySelector("#stage .mark").cloneNode(true), text,
    el("p", { class: "error", role: "alert", hidden: true }),
    el("p", { class: "figures note" }),
    el("div", { class: "actions" },
      button("Copy", actions.copy, { class: "finished copy" }),
      button("Regenerate", actions.regenerate, { class: "finished" }),
      actions.look && button("Look closer", actions.look, { class: "finished look" })));
  text.append(...message.pieces.map(pieceNode));
  pickable(text, (index, anchor) => showCard(anchor, message.pieces[index].tokens), hideCard);
  return node;
}

/** The node of a message; `actions` are what its buttons do. */
export const messageNode = (message, actions) =>
  (message.role === "user" ? question : answer)(message, actions);

/** Add what is new of an answer. */
export function addPiece(node, piece, index) {
  node.querySelector(".text").append(pieceNode(piece, index));
}

/** Show how far an answer is: waiting, coming, ended, broken. */
export function setState(node, message, running) {
  node.dataset.state = running ? (message.pieces.length ? "coming" : "waiting") : "ended";
  node.setAttribute("aria-busy", String(running));
  const error = node.querySelector(".error");
  error.hidden = !message.error;
  error.textContent = message.error ?? "";
  for (const one of node.querySelectorAll(".copy, .look")) one.hidden = !message.text;
  node.querySelector(".figures").textContent = running ? "" : figures(message);
}

function figures({ finish, usage, timing, pieces, error }) {
  const shown = pieces.reduce((sum, piece) => sum + piece.tokens.length, 0);
  const count = usage?.completion_tokens ?? shown;
  if (error && !count) return "";
  const parts = count || usage ? [`${count} ${count === 1 ? "token" : "tokens"}`] : [];
  if (timing) {
    parts.push(`${(timing.first + timing.rest).toFixed(2)} s`, `first after ${timing.first.toFixed(2)} s`);
    if (count > 1 && timing.rest >= 0.1) parts.push(`${((count - 1) / timing.rest).toFixed(1)} tokens/s`);
  }
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens;
    parts.push(`prompt ${usage.prompt_tokens}${cached ? ` (${cached} from the cache)` : ""}`);
  }
  if (finish === "length") parts.push("cut at the most tokens");
  if (finish === "stopped") parts.push("stopped");
  return parts.join(" · ");
}

/** The list of chats. */
export function chatItems(heads, current, open, remove) {
  return heads.map((head) => el("li", {},
    button(head.title, () => open(head.id), {
      class: "title", "aria-current": head.id === current ? "true" : null }),
    button("×", () => remove(head), { class: "remove", "aria-label": `Delete the chat ${head.title}` })));
}

/** Give a person a file. */
export function download(name, type, content) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
