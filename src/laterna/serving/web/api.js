// The public API, and nothing else: models, answers as they come, explanations.
// The API key lies in sessionStorage: it is gone with the tab.

const KEY = "laterna.key";

export const setKey = (key) => sessionStorage.setItem(KEY, key);

/** What the server said instead of an answer, in its own words. */
export class ServerError extends Error {
  constructor(message, { status = 0, code = null, param = null, retry = 0 } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retry });
  }
}

/** Ask a route under v1/; a body makes it a POST. Throws ServerError. */
async function ask(path, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(`v1/${path}`, document.baseURI), {
      method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body),
    });
  } catch (error) {
    throw told(error);
  }
  if (response.ok) return response;
  const text = await response.text().catch(() => "");
  const retry = Number(response.headers.get("Retry-After")) || 0;
  let said = {};
  try {
    said = JSON.parse(text).error ?? {};
  } catch {
    // not in the API's form, as from a proxy: shown as it is
  }
  throw new ServerError(said.message ?? `status ${response.status} ${text.slice(0, 300)}`.trim(), {
    status: response.status, code: said.code, param: said.param, retry,
  });
}

/** A broken connection in words; an abort and our own errors stay what they are. */
function told(error) {
  if (error.name === "AbortError" || error instanceof ServerError) return error;
  return new ServerError(error instanceof TypeError
    ? "The server cannot be reached. Is it running?"
    : `What the server sent cannot be read: ${error.message}`);
}

/** The names of the models that are served. */
export async function models() {
  const listed = await (await ask("models")).json();
  return listed.data.map((model) => model.id);
}

/** Explain an answer; see docs/serving.md for the form. */
export async function explain(body, signal) {
  return (await ask("explain", body, signal)).json();
}

let probabilities = true; // until a server says that it has none, as llama.cpp's

/** Yield the chunks of a streamed answer. Aborting the signal ends it on the server too. */
export async function* answer(body, signal) {
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  if (probabilities) Object.assign(asked, { logprobs: true, top_logprobs: 5 });
  let response;
  try {
    response = await ask("chat/completions", asked, signal);
  } catch (error) {
    if (!probabilities || error.param !== "logprobs") throw error;
    probabilities = false;
    yield* answer(body, signal);
    return;
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new ServerError("The connection broke in the middle of the answer.");
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ServerError(chunk.error.message, { code: chunk.error.code });
        yield chunk;
      }
    }
  } catch (error) {
    throw told(error);
  } finally {
    reader.cancel().catch(() => {});
  }
}
