// The page: one chat at a time on the screen, answers going on behind it where another is opened.

import * as api from "./api.js";
import * as look from "./look.js";
import * as store from "./store.js";
import { askKey, listenToSettings } from "./settings.js";
import { addPiece, button, chatItems, download, el, hideCard, messageNode, setState, thumbnail } from "./view.js";

const $ = (selector) => document.querySelector(selector);
const narrow = matchMedia("(max-width: 48rem)");
const nodes = new WeakMap(); // message -> its node
const running = new Map(); // chat's id -> {chat, controller, done}
let chat = fresh();
let attached = [];
let editing = null; // {index, draft}: the question in the composer, and what stood there before

function fresh() {
  const id = [...crypto.getRandomValues(new Uint8Array(12))].map((one) => one.toString(16)).join("");
  return { id, title: "", updated: 0, system: "", messages: [] };
}

function notice(text) {
  $("#notice").textContent = text;
  $("#notice").hidden = !text;
}

// The conversation

function show() {
  hideCard();
  look.close();
  $("#messages").replaceChildren(...chat.messages.map(place));
  refresh();
  $("#talk").scrollTop = $("#talk").scrollHeight;
}

function place(message, index) {
  const live = running.get(chat.id)?.message === message;
  const node = messageNode(message, message.role === "user" ? {
    edit: () => edit(index),
    again: index === chat.messages.length - 1 ? () => generate(chat) : null,
  } : {
    copy: () => copy(message.text),
    regenerate: () => regenerate(index),
    look: imagesUntil(index).length ? (event) => lookAt(message, event.target) : null,
  });
  nodes.set(message, node);
  if (message.role === "assistant") setState(node, message, live);
  return node;
}

const imagesUntil = (index) => chat.messages.slice(0, index).flatMap((one) => one.images ?? []);

function refresh() {
  const stay = staying();
  const busy = running.has(chat.id);
  $("#send").hidden = busy;
  $("#stop").hidden = !busy;
  $("#send").textContent = editing ? "Ask anew" : "Ask";
  $("#stage").hidden = chat.messages.length > 0;
  $("#export").hidden = chat.messages.length === 0;
  document.title = chat.title ? `${chat.title} · Laterna` : "Laterna";
  $("#editing").hidden = !editing;
  if (editing) $("#editing span").textContent = "You are editing a question; what follows it will be replaced.";
  $("#attached").replaceChildren(...attached.map((image, index) => el("li", {}, thumbnail(image),
    button("×", () => { attached.splice(index, 1); refresh(); $("#question").focus(); },
      { "aria-label": `Remove ${image.name}` }))));
  const lit = $("#screen img");
  if (attached.length && !lit) $("#screen").append(el("img", { alt: "" }));
  if (attached.length) $("#screen img").src = attached.at(-1).data;
  else lit?.remove();
  $("#screen").classList.toggle("lit", attached.length > 0);
  grow();
  stay();
}

function grow() {
  $("#question").style.height = "auto";
  $("#question").style.height = `${$("#question").scrollHeight}px`;
}

async function submit() {
  const text = $("#question").value.trim();
  if (running.has(chat.id)) return;
  if (!text) {
    notice(attached.length ? "Write a question about the image." : "");
    $("#question").focus();
    return;
  }
  if (editing) chat.messages.length = editing.index;
  editing = null;
  chat.messages.push({ role: "user", text, images: attached });
  chat.title ||= text.replace(/\s+/g, " ").slice(0, 60);
  attached = [];
  $("#question").value = "";
  notice("");
  await generate(chat);
}

/** Answer a chat's last question. */
function generate(asked) {
  const set = store.settings();
  asked.system = set.system.trim();
  const sampling = {};
  for (const name of ["temperature", "top_p", "seed", "max_tokens"]) {
    if (set[name].trim() !== "") sampling[name] = Number(set[name]);
  }
  const body = { model: $("#model").value || undefined, messages: store.messagesOf(asked), ...sampling };
  const message = {
    role: "assistant", text: "", pieces: [], model: body.model, sampling,
    finish: null, error: null, usage: null, timing: null,
  };
  asked.messages.push(message);
  const run = { chat: asked, message, controller: new AbortController() };
  running.set(asked.id, run);
  if (asked === chat) show();
  $("#live").textContent = "Answering";
  keep(asked);
  run.done = follow(run, body).then((error) => ended(run, error));
  return run.done;
}

/** Take the stream into the message; returns the error that ended it, if one did. */
async function follow({ chat: asked, message, controller }, body) {
  const began = performance.now();
  let first = null;
  try {
    for await (const chunk of api.answer(body, controller.signal)) {
      message.usage = chunk.usage ?? message.usage;
      const choice = chunk.choices[0];
      if (!choice) continue;
      message.finish = choice.finish_reason ?? message.finish;
      const tokens = (choice.logprobs?.content ?? []).map((one) => ({
        token: one.token, logprob: one.logprob,
        top: one.top_logprobs.map((other) => [other.token, other.logprob]),
      }));
      const text = choice.delta.content ?? "";
      if (!text && !tokens.length) continue;
      first ??= performance.now();
      message.timing = { first: (first - began) / 1000, rest: (performance.now() - first) / 1000 };
      message.text += text;
      message.pieces.push({ text, tokens });
      if (asked === chat) arrived(message);
    }
  } catch (error) {
    if (error.name === "AbortError") message.finish = "stopped";
    else return error;
  }
  return null;
}

/** Whoever reads the end goes on seeing it; whoever has scrolled up is left alone. */
function staying() {
  const talk = $("#talk");
  const atEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 80;
  return () => { if (atEnd) talk.scrollTop = talk.scrollHeight; };
}

function arrived(message) {
  const stay = staying();
  const node = nodes.get(message);
  addPiece(node, message.pieces.at(-1), message.pieces.length - 1);
  if (node.dataset.state === "waiting") setState(node, message, true);
  stay();
}

async function ended({ chat: asked, message }, error) {
  running.delete(asked.id);
  if (error?.status === 401) {
    asked.messages.pop();
    if (await askKey(error.message)) return generate(asked);
    asked.messages.push(message);
  }
  if (error) {
    message.error = error.message;
    if (error.retry) message.error += ` Try again in ${error.retry} s.`;
  }
  $("#live").textContent = message.text || (error ? "" : "The answer is empty.");
  if (asked === chat) {
    const stay = staying();
    setState(nodes.get(message) ?? place(message, chat.messages.length - 1), message, false);
    if (!nodes.get(message).isConnected) show();
    refresh();
    stay();
  }
  return keep(asked);
}

async function stop() {
  const run = running.get(chat.id);
  run?.controller.abort();
  await run?.done;
}

async function regenerate(index) {
  await stop();
  chat.messages.length = index;
  await generate(chat);
  $("#messages li:last-child .finished")?.focus();
}

function edit(index) {
  const { text, images } = chat.messages[index];
  editing = { index, draft: editing?.draft ?? { text: $("#question").value, images: attached } };
  attached = [...images];
  $("#question").value = text;
  refresh();
  $("#question").focus();
}

function cancelEdit() {
  $("#question").value = editing.draft.text;
  attached = editing.draft.images;
  editing = null;
  refresh();
  $("#question").focus();
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    $("#live").textContent = "Copied";
  } catch {
    notice("The browser does not let this page copy; select the text instead.");
  }
}

async function lookAt(message, back) {
  const until = chat.messages.indexOf(message) + 1;
  const messages = store.messagesOf(chat, until);
  const images = messages.flatMap(({ content }) => (Array.isArray(content) ? content : []))
    .filter((part) => part.type === "image_url").map((part) => part.image_url.url);
  await look.open({ model: $("#model").value || undefined, messages }, images, back);
}

// Images

async function add(files) {
  const others = files.filter((file) => !file.type.startsWith("image/"));
  notice(others.length ? `Not an image: ${others.map((file) => file.name).join(", ")}` : "");
  for (const file of files.filter((one) => one.type.startsWith("image/"))) {
    const data = await new Promise((resolve) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => resolve(null);
      reader.readAsDataURL(file);
    });
    if (data) attached.push({ name: file.name || "pasted image", data });
    else notice(`${file.name} cannot be read.`);
  }
  refresh();
  $("#question").focus();
}

// History

async function keep(asked) {
  asked.updated = Date.now();
  try {
    const pending = running.get(asked.id)?.message;
    const messages = asked.messages.filter((message) => message !== pending);
    const gone = await store.save({ ...asked, messages });
    $("#history-note").textContent = gone ? `${gone} of the oldest chats went, to make room.` : "";
  } catch (error) {
    $("#history-note").textContent = `This chat is not kept: ${error?.message ?? "the browser has closed its storage"}.`;
  }
  await list();
}

async function list() {
  const heads = await store.list().catch(() => []);
  $("#chat-list").replaceChildren(...chatItems(heads, chat.id, openChat, removeChat));
}

async function openChat(id) {
  const found = running.get(id)?.chat ?? (await store.load(id));
  if (found) await turnTo(found);
}

async function turnTo(other) {
  chat = other;
  editing = null;
  toggleChats(false);
  show();
  await list();
  $("#question").focus();
}

async function removeChat(head) {
  if (!confirm(`Delete the chat "${head.title}"?`)) return;
  const run = running.get(head.id);
  run?.controller.abort();
  await run?.done;
  await store.remove(head.id);
  if (head.id === chat.id) await turnTo(fresh());
  else await list();
}

function toggleChats(open) {
  document.body.classList.toggle("chats-open", open);
  $("#show-chats").setAttribute("aria-expanded", String(open));
}

// The server, the keyboard, the pointer

async function readModels() {
  try {
    const names = await api.models();
    $("#model").replaceChildren(...names.map((name) => el("option", {}, name)));
    const { model } = store.settings();
    if (names.includes(model)) $("#model").value = model;
  } catch (error) {
    if (error.status === 401 && (await askKey(error.message))) return readModels();
    notice(error.message);
  }
  return null;
}

function escape() {
  if (document.querySelector("dialog[open]")) return; // it closes by itself
  if (running.has(chat.id)) stop();
  else if (editing) cancelEdit();
  else if (document.body.classList.contains("chats-open")) toggleChats(false);
  else if ($("#export").open) $("#export").open = false;
  else look.close();
}

function listenToImages() {
  $("#attach").onclick = $("#screen").onclick = () => $("#files").click();
  $("#files").onchange = async () => {
    await add([...$("#files").files]);
    $("#files").value = "";
  };
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) add(files);
  });
  const drag = (on) => document.body.classList.toggle("dragging", on);
  document.addEventListener("dragover", (event) => { event.preventDefault(); drag(true); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drag(false); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drag(false);
    const files = [...event.dataTransfer.files];
    if (files.length) add(files);
    else notice("Drop an image file; what is dropped from another page is not fetched.");
  });
}

function listenToHeader() {
  $("#show-chats").onclick = () => toggleChats(!document.body.classList.contains("chats-open"));
  $("#new-chat").onclick = () => turnTo(fresh());
  $("#delete-all").onclick = async () => {
    if (!confirm("Delete all chats of this browser?")) return;
    for (const run of running.values()) run.controller.abort();
    await Promise.all([...running.values()].map((run) => run.done));
    await store.removeAll();
    $("#settings").close();
    await turnTo(fresh());
  };
  $("#model").onchange = () => store.keepSettings({ model: $("#model").value });
  const name = () => chat.title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40) || "chat";
  const give = (ending, type, content) => {
    download(`${name()}.${ending}`, type, content);
    $("#export").open = false;
  };
  $("#export-markdown").onclick = () => give("md", "text/markdown", store.toMarkdown(chat));
  $("#export-json").onclick = () => give("json", "application/json", store.toJson(chat));
}

function listenToComposer() {
  $("#composer").onsubmit = (event) => { event.preventDefault(); submit(); };
  $("#question").oninput = grow;
  $("#question").onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  };
  $("#stop").onclick = stop;
  $("#cancel-edit").onclick = cancelEdit;
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") escape(); });
  $("#talk").addEventListener("scroll", hideCard);
}

listenToSettings();
listenToImages();
listenToHeader();
listenToComposer();
look.listen((open) => { for (const part of ["main", "#chats"]) $(part).inert = open && narrow.matches; });
show();
await Promise.all([readModels(), list()]);
$("#question").focus();
