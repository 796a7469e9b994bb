// The server's answers: JSON, and raw pixels with their JSON in front. Each channel has one request under way at most,
// and then the newest: what was asked in between is dropped before it is sent.

const token = document.querySelector('meta[name="fracgen-token"]').content;
const client = crypto.randomUUID();
const channels = new Map();

/** An answer of the server that says what is wrong, in one line. */
export class ServerError extends Error {}

/** GET one of the server's resources as JSON. */
export async function get(path) {
  return (await send(path, { method: "GET" })).json();
}

/** POST plain values; the answer is JSON. */
export async function post(path, values) {
  return (await request(path, values)).json();
}

/** POST plain values; the answer is {info, pixels}: what each image is, and all pixels one after the other. */
export async function postForImages(path, values) {
  return unpack(await (await request(path, values)).arrayBuffer());
}

/** POST plain values; the answer is a file. */
export async function postForFile(path, values) {
  return (await request(path, values)).blob();
}

/**
 * Call `ask(stamp)` on a channel: at once where nothing is under way on it, else when that has come back, and only if
 * nothing newer was asked by then. Resolves to undefined where a newer one took its place. An answer that comes is shown,
 * though a newer one is asked: else nothing would move while a slider does. `stamp` goes into the
 * request, by which the server too drops what is old.
 */
export function newest(name, ask) {
  const channel = channels.get(name) ?? { turn: 0, running: false, waiting: null };
  channels.set(name, channel);
  return new Promise((resolve, reject) => {
    channel.waiting?.resolve(undefined);
    channel.waiting = { ask, resolve, reject };
    if (!channel.running) void drain(name, channel);
  });
}

/** Whether any channel has a request under way. */
export function isBusy() {
  return [...channels.values()].some((channel) => channel.running);
}

async function drain(name, channel) {
  channel.running = true;
  document.dispatchEvent(new Event("fracgen:requests"));
  while (channel.waiting) {
    const { ask, resolve, reject } = channel.waiting;
    channel.waiting = null;
    channel.turn += 1;
    try {
      resolve(await ask({ client, channel: name, turn: channel.turn }));
    } catch (error) {
      if (channel.waiting || error.dropped) resolve(undefined);
      else reject(error);
    }
  }
  channel.running = false;
  document.dispatchEvent(new Event("fracgen:requests"));
}

function request(path, values) {
  return send(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(values),
  });
}

async function send(path, options) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...options.headers, "X-Fracgen-Token": token } });
  } catch {
    throw new ServerError("the server does not answer: is `fracgen explore` still running?");
  }
  if (answer.ok) return answer;
  const values = await answer.json().catch(() => ({}));
  const error = new ServerError(values.error ?? `the server answered ${answer.status}`);
  error.dropped = values.dropped === true;
  throw error;
}

function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const info = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return { info, pixels: new Uint8Array(buffer, 4 + length) };
}
