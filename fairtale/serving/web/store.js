"use strict";
// Conversations in the storage of the browser, one entry each, so that tabs do not overwrite each
// other. A conversation is {id, kind, model, updated, draft, items}, and an item
// {input, output, model, state, note}: a turn with its reply, the beginning of a story with its
// continuation, or a sentence with its translation.

const ENTRY = "fairtale.conversation.";
const KINDS = ["story", "dialog", "translation"];
const STATES = ["writing", "edited", "done", "length", "stopped", "cut", "error"];

const storages = { local: reachable("localStorage"), session: reachable("sessionStorage") };

/** The storage, or null where the browser forbids it. */
function reachable(name) {
  try {
    window[name].getItem(ENTRY);
    return window[name];
  } catch {
    return null;
  }
}

/** Read a JSON value; undefined when there is none that can be read. */
function recall(where, key) {
  try {
    return JSON.parse(storages[where].getItem(key)) ?? undefined;
  } catch {
    return undefined;
  }
}

/** Keep a JSON value; false when the storage is full or forbidden. */
function keep(where, key, value) {
  try {
    storages[where].setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

function forget(where, key) {
  storages[where]?.removeItem(key);
}

function isConversation(value) {
  const texts = (object, ...names) => names.every((name) => typeof object[name] === "string");
  return (
    Boolean(value) &&
    texts(value, "id", "model", "draft") &&
    KINDS.includes(value.kind) &&
    Number.isFinite(value.updated) &&
    Array.isArray(value.items) &&
    value.items.length > 0 &&
    value.items.every(
      (item) =>
        Boolean(item) &&
        texts(item, "input", "output", "model", "note") &&
        STATES.includes(item.state),
    )
  );
}

function newConversation(kind, model) {
  const id = [...crypto.getRandomValues(new Uint32Array(3))].map((n) => n.toString(36)).join("");
  return { id, kind, model, updated: Date.now(), draft: "", items: [] };
}

/** All conversations, the newest first. What this page did not write is left alone. */
function loadConversations() {
  const found = [];
  for (let i = 0; i < (storages.local?.length ?? 0); i += 1) {
    const key = storages.local.key(i);
    if (!key.startsWith(ENTRY)) continue;
    const value = recall("local", key);
    if (isConversation(value) && key === ENTRY + value.id) found.push(value);
  }
  return found.sort((a, b) => b.updated - a.updated);
}

/** One conversation; a text that was being written when the page was left is marked as cut. */
function loadConversation(id) {
  const value = recall("local", ENTRY + id);
  if (!isConversation(value)) return null;
  for (const item of value.items) if (item.state === "writing") item.state = "cut";
  return value;
}

function saveConversation(conversation) {
  return keep("local", ENTRY + conversation.id, conversation);
}

function deleteConversation(id) {
  forget("local", ENTRY + id);
}

/** What stands for a conversation in the list. */
function titleOf(conversation) {
  const { input, output } = conversation.items[0];
  const whole = conversation.kind === "story" ? input + output : input;
  const text = whole.trim().replace(/\s+/gu, " ");
  const letters = [...text];
  return letters.length > 60 ? `${letters.slice(0, 60).join("")}…` : text || "Untitled";
}
