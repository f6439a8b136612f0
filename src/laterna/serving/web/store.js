// What stays in the browser: chats with their images in IndexedDB, settings in localStorage.

export const MOST_CHATS = 100;
export const MOST_BYTES = 100e6;
const SETTINGS = "laterna.settings";
const DEFAULTS = {
  temperature: "0.2", top_p: "1", seed: "", max_tokens: "512", system: "", theme: "auto", model: "",
};

export function settings() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(SETTINGS)) };
  } catch {
    return { ...DEFAULTS };
  }
}

export function keepSettings(changed) {
  const kept = { ...settings(), ...changed };
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(kept));
  } catch {
    // storage is closed: they hold until the page is left
  }
  return kept;
}

/** A promise of what an IndexedDB request gives. */
const given = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

let opened;
function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("laterna", 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("heads", { keyPath: "id" }); // the list, without images
      request.result.createObjectStore("chats", { keyPath: "id" });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function within(mode, work) {
  const transaction = (await database()).transaction(["heads", "chats"], mode);
  const ended = new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
  const result = await work(transaction.objectStore("heads"), transaction.objectStore("chats"));
  await ended;
  return result;
}

/** The chats' heads {id, title, updated, bytes}, newest first. */
export async function list() {
  const heads = await within("readonly", (store) => given(store.getAll()));
  return heads.sort((a, b) => b.updated - a.updated);
}

export const load = (id) => within("readonly", (_, chats) => given(chats.get(id)));

export const remove = (id) => within("readwrite", (heads, chats) => {
  heads.delete(id);
  chats.delete(id);
});

export const removeAll = () => within("readwrite", (heads, chats) => {
  heads.clear();
  chats.clear();
});

/** Keep a chat; the oldest others go where there is no room. Returns the number that went. */
export async function save(chat) {
  const head = {
    id: chat.id, title: chat.title, updated: chat.updated, bytes: JSON.stringify(chat).length,
  };
  return within("readwrite", async (heads, chats) => {
    heads.put(head);
    chats.put(chat);
    const all = (await given(heads.getAll())).sort((a, b) => b.updated - a.updated);
    let [count, bytes, gone] = [1, head.bytes, 0];
    for (const one of all) {
      if (one.id === chat.id) continue;
      count += 1;
      bytes += one.bytes;
      if (count <= MOST_CHATS && bytes <= MOST_BYTES) continue;
      heads.delete(one.id);
      chats.delete(one.id);
      gone += 1;
    }
    return gone;
  });
}

/** The chat as the API's messages, up to a message of ours; unanswered questions are left out. */
export function messagesOf(chat, until = chat.messages.length) {
  const shown = chat.messages.slice(0, until).filter((message, place, all) => {
    if (message.role === "assistant") return said(message);
    return place === all.length - 1 || said(all[place + 1]);
  });
  const system = chat.system ? [{ role: "system", content: chat.system }] : [];
  return system.concat(shown.map((message) => {
    if (message.role === "assistant") return { role: "assistant", content: message.text };
    if (!message.images.length) return { role: "user", content: message.text };
    const images = message.images.map(({ data }) => ({ type: "image_url", image_url: { url: data } }));
    return { role: "user", content: [...images, { type: "text", text: message.text }] };
  }));
}

const said = (answer) => answer?.role === "assistant" && Boolean(answer.text || !answer.error);

/** A chat as JSON: its messages can be posted to /v1/chat/completions as they are. */
export function toJson(chat) {
  const answers = chat.messages.filter((one) => one.role === "assistant")
    .map(({ text, model, sampling, finish, error, usage, timing, pieces }) => (
      { text, model, sampling, finish, error, usage, timing, tokens: pieces.flatMap((one) => one.tokens) }));
  return JSON.stringify({ title: chat.title, messages: messagesOf(chat), answers }, null, 2);
}

/** A chat as Markdown, its images inside as data URLs. */
export function toMarkdown(chat) {
  const parts = [`# ${chat.title}`];
  if (chat.system) parts.push(`*System:* ${chat.system}`);
  for (const message of chat.messages) {
    if (message.role === "user") {
      parts.push("## Question");
      for (const image of message.images) parts.push(`![${image.name.replace(/[[\]\\]/g, "")}](${image.data})`);
      parts.push(message.text);
    } else {
      parts.push("## Answer", message.text || "(none)");
      if (message.error) parts.push(`*${message.error}*`);
    }
  }
  return parts.join("\n\n") + "\n";
}
