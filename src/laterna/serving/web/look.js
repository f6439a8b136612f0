// What the model saw: the image as it came to the encoder, its patches, and what an answer hangs on.

import * as api from "./api.js";
import { el, marked, percent, pickable, visible } from "./view.js";

const $ = (selector) => document.querySelector(selector);
const METHODS = { image: "Image", occlusion: "Occlusion", attention: "Attention", words: "Words" };
const NIGHT = [12, 10, 22];
const MOST_SIDE = 14; // windows a side at first: more take seconds an image on a CPU
const LITTLE = 0.01; // the probability falls by one in a hundred
const ROUNDING = 1e-5; // in log probability: drops below it are the computer's, not the model's

let state = null; // {ask, images, back, index, method, token, cell, found, controller}
let onShow = () => {};

/** Open the panel on an answer: `ask` is the request, `images` the addresses of the chat's images. */
export async function open(ask, images, back) {
  state?.controller.abort();
  state = { ask, images, back };
  $("#look").hidden = false;
  document.body.classList.add("looking");
  onShow(true);
  $("#look-close").focus();
  await turnTo(images.length - 1);
}

export function close() {
  if (!state) return;
  state.controller.abort();
  const { back } = state;
  state = null;
  $("#look").hidden = true;
  document.body.classList.remove("looking");
  onShow(false);
  if (back.isConnected) back.focus();
}

async function turnTo(index) {
  state.controller?.abort();
  Object.assign(state, {
    index, method: "image", token: -1, cell: null, found: {}, window: 1,
    controller: new AbortController(),
  });
  $("#look-body").hidden = true;
  if (await load([], "Asking what the model saw …")) {
    fill();
    await choose("occlusion");
  }
}

/** Ask for methods and keep what comes; false where nothing came or it is no longer wanted. */
async function load(methods, waiting) {
  const mine = state;
  const { signal } = mine.controller;
  $("#look-state").textContent = waiting;
  try {
    const found = await api.explain({
      ...mine.ask, image: mine.index, methods, window: mine.window, max_tokens: 64 }, signal);
    if (signal.aborted || mine !== state) return false;
    Object.assign(mine.found, found);
    $("#look-state").textContent = "";
    return true;
  } catch (error) {
    if (error.name === "AbortError" || mine !== state) return false;
    const missing = error.status === 404 && error.code !== "model_not_found";
    if (missing) document.body.classList.add("no-look");
    $("#look-state").textContent = missing
      ? "This server does not explain its answers (it has no /v1/explain)." : error.message;
    return false;
  }
}

async function choose(method) {
  const mine = state;
  if (method !== "image" && !mine.found[method]) {
    const wait = `Working out: ${METHODS[method].toLowerCase()} …`;
    mine.wanted = method;
    if (!(await load([method], wait)) || mine !== state || mine.wanted !== method) return;
    if (!mine.found[method]) {
      $("#look-state").textContent = `The server gave no ${METHODS[method].toLowerCase()} for this model.`;
      return;
    }
  }
  mine.wanted = method;
  mine.method = method;
  draw();
}

// What is shown

function choices(box, entries, picked, pick) {
  box.replaceChildren(...entries.map(([value, content]) => el("button", {
    type: "button", "aria-pressed": String(value === picked), "data-value": value,
    onclick: () => pick(value) }, content)));
}

function fill() {
  const { found, images, index } = state;
  $("#look-body").hidden = false;
  $("#look-images").hidden = images.length < 2;
  choices($("#look-images"), images.map((data, place) => [
    place, el("img", { src: data, alt: `Image ${place + 1}` })]), index, turnTo);
  choices($("#look-methods"), Object.entries(METHODS), state.method, choose);
  const { width, height, data, tokens, views, grid } = found.image;
  // what fills several patches is often still known when one of them is hidden
  state.window = Math.min(4, Math.max(2, Math.ceil(Math.max(grid.rows, grid.columns) / MOST_SIDE)));
  $("#look-window select").value = state.window;
  const [img] = $("#seen").children;
  img.src = data;
  img.onload = draw;
  $("#seen").classList.toggle("coarse", width < 200);
  $("#seen").style.aspectRatio = `${width} / ${height}`;
  $("#seen").style.maxWidth = `calc(56vh * ${width / height})`;
  $("#look-views").replaceChildren(...(views.length < 2 ? [] : views).map((view, place) => el(
    "figure", {}, el("img", { src: view.data, alt: "" }),
    el("figcaption", {}, `view ${place + 1}: ${view.grid.rows} × ${view.grid.columns}`))));
  const whole = el("span", { "data-index": -1, class: "whole" }, "whole answer");
  $("#strip").replaceChildren(whole, ...found.tokens.map(({ text, logprob }, place) =>
    el("span", { "data-index": place }, ...marked(text.replace(/\n/g, "⏎\n") || "∅", logprob))));
  $("#prompt pre").textContent = found.prompt;
  $("#prompt p").textContent = `${found.prompt_tokens} tokens, ${tokens} of them of this image`;
  pickToken(-1);
}

function pickToken(token) {
  state.token = token;
  for (const node of $("#strip").children) node.classList.toggle("held", Number(node.dataset.index) === token);
  const { tokens } = state.found;
  const all = tokens.reduce((sum, { logprob }) => sum + logprob, 0);
  $("#strip-figure").textContent = token < 0
    ? `Whole answer: log probability ${signed(all)}`
    : `“${visible(tokens[token].text)}”: probability ${percent(tokens[token].logprob)}`;
  draw();
}

const signed = (value, digits = 2) => value.toFixed(digits).replace("-", "−");

/** A log probability's change with two digits that count, however small it is. */
const change = (value) => (Math.abs(value) < ROUNDING ? "0"
  : signed(value, Math.max(2, 1 - Math.floor(Math.log10(Math.abs(value))))));

/** The map in force: rows of numbers, or null where the image alone is shown. */
function map() {
  const given = state.found[state.method];
  if (!given || state.method === "words") return null;
  return state.token < 0 ? given.overall : given.tokens[state.token] ?? null;
}

/** How lit a value is, from -1 to 1: a drop beside the greatest one, attention between its ends. */
function lightOf(values) {
  const all = values.flat();
  const most = Math.max(...all);
  if (state.method === "occlusion") {
    const scale = Math.max(most, ROUNDING);
    return (value) => Math.max(-1, value / scale);
  }
  const least = Math.min(...all);
  return (value) => (value - least) / (most - least || 1);
}

function draw() {
  if (!state?.found.image) return;
  const canvas = $("#seen canvas");
  const { width, height } = $("#seen").getBoundingClientRect();
  const dense = window.devicePixelRatio || 1;
  canvas.width = width * dense;
  canvas.height = height * dense;
  const pen = canvas.getContext("2d");
  pen.scale(dense, dense);
  const { rows, columns } = state.found.image.grid;
  const values = map();
  if (values) light(pen, values, width, height);
  if (state.method === "words") words(pen, width / columns, height / rows);
  if ($("#look-grid").checked) lines(pen, rows, columns, width, height);
  if (state.cell) {
    const [row, column] = state.cell;
    pen.strokeStyle = "#ffc457";
    pen.lineWidth = 3;
    pen.strokeRect((column * width) / columns, (row * height) / rows, width / columns, height / rows);
  }
  for (const node of $("#look-methods").children) {
    node.setAttribute("aria-pressed", String(node.dataset.value === state.method));
  }
  $("#legend").textContent = legend(values);
  $("#look-window").hidden = state.method !== "occlusion";
  $("#cell").textContent = tell();
  $("#seen").setAttribute("aria-label",
    `The image as the model saw it, ${rows} by ${columns} patches; arrow keys move over them`);
}

/** Night over the image, but where the answer hangs on it; blue where hiding it would help. */
function light(pen, values, width, height) {
  const [rows, columns] = [values.length, values[0].length];
  const lightness = lightOf(values);
  const small = el("canvas", { width: columns, height: rows });
  const pixels = new ImageData(columns, rows);
  values.flat().forEach((value, place) => {
    const share = lightness(value);
    const colour = share < 0 ? NIGHT.map((one, part) => one + (([70, 120, 255][part] - one) * -share)) : NIGHT;
    pixels.data.set([...colour, 255 * 0.84 * (share < 0 ? 1 + share / 3 : 1 - share)], place * 4);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  pen.imageSmoothingEnabled = !$("#look-grid").checked;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(small, 0, 0, width, height);
}

function lines(pen, rows, columns, width, height) {
  for (const [colour, shift] of [["rgb(0 0 0 / 45%)", 1], ["rgb(255 255 255 / 42%)", 0]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = 1;
    pen.beginPath();
    for (let row = 1; row < rows; row += 1) {
      const y = Math.round((row * height) / rows) + 0.5 + shift;
      pen.moveTo(0, y);
      pen.lineTo(width, y);
    }
    for (let column = 1; column < columns; column += 1) {
      const x = Math.round((column * width) / columns) + 0.5 + shift;
      pen.moveTo(x, 0);
      pen.lineTo(x, height);
    }
    pen.stroke();
  }
}

/** Write each patch's nearest word on it, where there is room; the others under the pointer. */
function words(pen, width, height) {
  pen.fillStyle = `rgb(${NIGHT.join(" ")} / 62%)`;
  pen.fillRect(0, 0, pen.canvas.width, pen.canvas.height);
  if (width < 34) return;
  pen.fillStyle = "#fff";
  pen.font = "11px system-ui, sans-serif";
  pen.textAlign = "center";
  state.found.words.words.forEach((line, row) => line.forEach(([best], column) => {
    let text = best?.[0].trim() ?? "";
    while (text.length > 1 && pen.measureText(text).width > width - 4) text = `${text.replace(/…$/, "").slice(0, -1)}…`;
    pen.fillText(text, (column + 0.5) * width, (row + 0.5) * height + 4);
  }));
}

function legend(values) {
  const { method, found } = state;
  if (method === "words") return "Words of the language model's vocabulary that each patch's token is nearest to.";
  if (!values) return "The image as the encoder got it, cut into patches.";
  const most = Math.max(...values.flat());
  if (method === "attention") {
    const least = Math.min(...values.flat());
    return `Lit: attention to a patch, from ${signed(least)} (dark) to ${signed(most)}: ${found.attention.note ?? ""}`;
  }
  if (most < ROUNDING) return "Lit by nothing: hiding any one place does not lower the log probability.";
  const little = most < LITTLE ? " So little that the answer hardly hangs on any one place." : "";
  return `Lit: hiding this place lowers the log probability, by ${change(most)} at most; blue: raises it.${little}`;
}

/** The patch under the pointer, in words. */
function tell() {
  if (!state.cell) return "";
  const [row, column] = state.cell;
  const where = `Row ${row + 1}, column ${column + 1}`;
  if (state.method === "words") {
    const near = state.found.words.words[row]?.[column] ?? [];
    return `${where}: ${near.map(([word, score]) => `${word.trim() || visible(word)} ${signed(score)}`).join(", ")}`;
  }
  const value = map()?.[row]?.[column];
  if (value === undefined) return where;
  return `${where}: ${state.method === "occlusion" ? change(value) : signed(value, 3)}`;
}

function toCell(row, column) {
  const { rows, columns } = state.found.image.grid;
  const within = (value, count) => Math.max(0, Math.min(count - 1, value));
  const cell = [within(row, rows), within(column, columns)];
  if (String(cell) === String(state.cell)) return;
  state.cell = cell;
  draw();
}

/** Wire the panel once; `shown` is told when it opens and closes. */
export function listen(shown) {
  onShow = shown;
  $("#look-close").onclick = close;
  $("#look-grid").onchange = draw;
  $("#look-window select").onchange = (event) => {
    state.window = Number(event.target.value);
    delete state.found.occlusion;
    state.method = "image";
    choose("occlusion");
  };
  pickable($("#strip"), pickToken);
  const seen = $("#seen");
  const point = (event) => {
    const { left, top, width, height } = seen.getBoundingClientRect();
    const { rows, columns } = state.found.image.grid;
    toCell(Math.floor(((event.clientY - top) / height) * rows), Math.floor(((event.clientX - left) / width) * columns));
  };
  seen.addEventListener("pointermove", point);
  seen.addEventListener("pointerdown", point);
  seen.addEventListener("pointerleave", () => { if (state) { state.cell = null; draw(); } });
  seen.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [row, column] = state.cell ?? [-step[0], -step[1]];
    toCell(row + step[0], column + step[1]);
  });
  new ResizeObserver(draw).observe(seen);
}
