// The server as the page uses it: its models, and answers as streams.
// What goes wrong is a ServerError with one line for people; an AbortError means that the page itself stopped.

const KEY = "edge-eds.key"; // kept for this tab alone

export class ServerError extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Use this API key from now on; false if no header could carry it. */
export function useKey(key) {
  if (!/^[\x21-\x7e]+$/.test(key)) return false;
  sessionStorage.setItem(KEY, key);
  return true;
}

/** What the server steers with: {name, plainName, strength, layers, gate}; plainName null: it has no energies. */
export async function facts() {
  const models = (await (await request("v1/models")).json()).data;
  const plain = models.find((model) => model.id.endsWith(":plain"));
  const main = models.find((model) => model !== plain);
  return { name: main.id, plainName: plain?.id ?? null, ...main.eds };
}

/**
 * Ask for one answer. onTaken: the server has put it into its queue. onText: is given each piece as it comes.
 * Gives {finish, eds} at the end: the finish_reason, and the trace if `body` asks for it.
 */
export async function answer(body, signal, onTaken, onText) {
  const options = { method: "POST", body: JSON.stringify({ ...body, stream: true }), signal };
  const response = await request("v1/chat/completions", options);
  onTaken();
  let end = null;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message, 0, chunk.error.code);
    const [choice] = chunk.choices;
    if (choice.delta.content) onText(choice.delta.content);
    if (choice.finish_reason) end = { finish: choice.finish_reason, eds: chunk.eds ?? null };
  }
  if (end === null) throw new ServerError("The connection broke off before the answer was complete.");
  return end;
}

/** What the energies say of a conversation and of the answer to it: the document of /v1/eds/energy. */
export async function energies(body, signal) {
  return (await request("v1/eds/energy", { method: "POST", body: JSON.stringify(body), signal })).json();
}

async function request(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = key === null ? {} : { Authorization: `Bearer ${key}` };
  const response = await reached(() => fetch(path, { ...options, headers, cache: "no-store" }));
  if (response.ok) return response;
  const error = (await response.json().catch(() => null))?.error;
  throw new ServerError(error?.message ?? `The server answered with status ${response.status}.`, response.status,
    error?.code ?? null);
}

/** The data of server-sent events, one by one. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reached(() => reader.read());
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6).trimEnd();
  }
}

/** What `act` gives; browsers say TypeError when the other side cannot be reached or goes away. */
async function reached(act) {
  try {
    return await act();
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw new ServerError("The server cannot be reached. Is edge-eds serve still running?");
  }
}
