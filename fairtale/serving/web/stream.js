"use strict";
// Calls of the service, and its streams. Addresses are relative: a proxy may add a folder.

const KEY = "fairtale.key";

/** An answer of the service that is not the one asked for, or none; `message` is for people. */
class ServerError extends Error {
  constructor(message, status = 0, retryAfter = "") {
    super(message);
    this.status = status; // 0: there was no answer
    this.retryAfter = retryAfter; // seconds or a date, as the service wrote it
  }
}

const UNREACHABLE = "The server cannot be reached. Check that it runs, then try again.";
const LOST = "The connection was lost before the text had ended. What arrived is kept.";

/** Ask the service; a body makes it a POST. Throws a ServerError, or an AbortError when stopped. */
async function call(path, body, signal) {
  const headers = {};
  const key = sessionKey();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers,
      body: body && JSON.stringify(body),
      signal,
      cache: "no-store",
      redirect: "error", // a key must not travel to another address
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(UNREACHABLE);
  }
  if (response.ok) return response;
  throw await refusal(response);
}

/** The service's own message, whatever form the answer has. */
async function refusal(response) {
  let message = "";
  try {
    message = messageOf(JSON.parse(await response.text()));
  } catch {
    // not JSON: a proxy's page, or nothing
  }
  if (!message) {
    message = `The server answered ${response.status} ${response.statusText}`.trim() + ".";
  }
  return new ServerError(message, response.status, response.headers.get("Retry-After") ?? "");
}

function messageOf(answer) {
  const message = answer?.error?.message;
  return typeof message === "string" ? message : "";
}

/** The data of each server-sent event. Source: HTML Standard, section 9.2.6. */
async function* readEvents(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder(); // keeps the bytes of a character that has not come whole
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return; // an event without its empty line is not whole
      // "\r" at the end may be the first half of "\r\n"
      const lines = (rest + decoder.decode(value, { stream: true })).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Generate texts: yields `{index, text, reason}`, where the index says of which prompt, and the
 * reason is null until that text has ended. Returns when the service says that all have ended.
 */
async function* generate(path, body, signal) {
  const response = await call(path, { ...body, stream: true }, signal);
  let ended = false;
  try {
    for await (const data of readEvents(response.body)) {
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ServerError(messageOf(event) || LOST);
      for (const { index, delta, text, finish_reason: reason } of event.choices) {
        ended ||= Boolean(reason);
        yield { index, text: delta?.content ?? text ?? "", reason: reason ?? null };
      }
    }
  } catch (error) {
    if (error instanceof ServerError || error.name === "AbortError") throw error;
    throw new ServerError(LOST);
  }
  if (!ended) throw new ServerError(LOST);
}

/** The models of the service: `[{id, kind, ...}]`. */
async function listModels() {
  const response = await call("v1/models");
  try {
    return (await response.json()).data.filter((model) => typeof model.id === "string");
  } catch {
    throw new ServerError("The server's list of models cannot be read.", response.status);
  }
}

function sessionKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return heldKey; // storage is switched off
  }
}

let heldKey = "";

function useKey(key) {
  heldKey = key;
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // kept until the page is left
  }
}
