// What was asked before, in this browser's own database: {id, at, values, turns}. Other tabs have theirs: a thread that
// another tab has changed meanwhile is kept under a new id beside it.

import { scope } from "../../shared/service.js";

const MOST = 50;
const tabs = new BroadcastChannel(`llm_api.threads:${scope}`);
const known = new Map(); // id to the version that this tab has seen
const moved = new Map(); // id to that under which this tab goes on with it

export const newId = () => crypto.getRandomValues(new Uint32Array(3)).join("-");

let opened = null;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(`llm_api:${scope}`, 1);
    request.onupgradeneeded = () => request.result.createObjectStore("threads", { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

// `work(store, answer)` is one transaction, which returns what `answer` is given.
async function inStore(mode, work) {
  const transaction = (await database()).transaction("threads", mode);
  return new Promise((resolve, reject) => {
    let given;
    transaction.oncomplete = () => resolve(given);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
    work(transaction.objectStore("threads"), (value) => { given = value; });
  });
}

export async function all() {
  const threads = await inStore("readonly", (store, answer) => {
    store.getAll().onsuccess = ({ target }) => answer(target.result);
  });
  return threads.sort((one, other) => other.at - one.at);
}

export async function read(id) {
  const thread = await inStore("readonly", (store, answer) => {
    store.get(id).onsuccess = ({ target }) => answer(target.result);
  });
  moved.delete(id);
  if (thread) known.set(id, thread.version);
  return thread;
}

let keeping = Promise.resolve();

// Returns the id under which it lies now. One after the other: each must know what the one before has kept.
export function keep(thread) {
  const kept = keeping.then(() => put({ ...thread, id: moved.get(thread.id) ?? thread.id }));
  keeping = kept.then((id) => { if (id !== thread.id) moved.set(thread.id, id); }, () => {});
  return kept;
}

async function put(thread) {
  const version = newId();
  const kept = await inStore("readwrite", (store, answer) => {
    store.get(thread.id).onsuccess = ({ target: { result: there } }) => {
      const id = there && there.version !== known.get(thread.id) ? newId() : thread.id;
      store.put({ ...thread, id, version });
      answer(id);
    };
    store.getAll().onsuccess = ({ target: { result } }) => {
      const old = result.sort((one, other) => other.at - one.at).slice(MOST);
      for (const { id } of old) store.delete(id);
    };
  });
  known.set(kept, version);
  tabs.postMessage("changed");
  return kept;
}

export async function forget() {
  await inStore("readwrite", (store) => store.clear());
  known.clear();
  tabs.postMessage("changed");
}

export const onChange = (call) => { tabs.onmessage = call; };
