// The settings, the colors and the API key.

import { setKey } from "./api.js";
import { keepSettings, MOST_BYTES, MOST_CHATS, settings } from "./store.js";

const $ = (selector) => document.querySelector(selector);
const system = matchMedia("(prefers-color-scheme: dark)");

function applyTheme() {
  const { theme } = settings();
  const dark = theme === "auto" ? system.matches : theme === "dark";
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("#theme").textContent = dark ? "Light" : "Dark";
  $("#theme").setAttribute("aria-label", dark ? "Light colors" : "Dark colors");
}

function showSettings() {
  const set = settings();
  for (const field of $("#settings form").elements) if (field.name) field.value = set[field.name];
  $("#kept").textContent = "Chats and their images are kept whole in this browser alone: the newest "
    + `${MOST_CHATS}, ${MOST_BYTES / 1e6} MB at most; older ones go.`;
  $("#settings").showModal();
}

/** Ask for the API key; true if one was given. */
export function askKey(words) {
  $("#key-words").textContent = words;
  $("#key").returnValue = "";
  $("#key input").value = "";
  $("#key").showModal();
  return new Promise((resolve) => {
    $("#key").addEventListener("close", () => {
      const key = $("#key").returnValue === "given" && $("#key input").value.trim();
      if (key) setKey(key);
      resolve(Boolean(key));
    }, { once: true });
  });
}

export function listenToSettings() {
  applyTheme();
  system.addEventListener("change", applyTheme);
  $("#theme").onclick = () => {
    keepSettings({ theme: document.documentElement.dataset.theme === "dark" ? "light" : "dark" });
    applyTheme();
  };
  $("#show-settings").onclick = showSettings;
  $("#settings form").onchange = (event) => {
    if (event.target.name) keepSettings({ [event.target.name]: event.target.value });
    applyTheme();
  };
  $("#key form").onsubmit = (event) => {
    event.preventDefault();
    $("#key").close("given");
  };
  $("#key-cancel").onclick = () => $("#key").close("");
}
