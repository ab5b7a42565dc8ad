"use strict";
// Texts are asked for, shown as they are made, and kept.

function send() {
  const { conversation, view } = app;
  const text = view.field.value;
  const { kind, model } = conversation;
  if (app.run || $("go").disabled || !settingsAreRight()) return;
  if (!text.trim() && kind !== "story") return view.field.focus();
  const item = { input: text, output: "", model, state: "writing", note: "" };
  if (kind === "story") conversation.items = [item];
  else if (kind === "translation" && conversation.items.at(-1)?.input === text) {
    conversation.items.splice(-1, 1, item);
  } else conversation.items.push(item);
  conversation.draft = "";
  view.clear();
  view.show();
  write(conversation, item);
}

function again() {
  const { conversation } = app;
  const item = conversation.items.at(-1);
  if (app.run || !item || $("go").disabled || !settingsAreRight()) return;
  Object.assign(item, { output: "", model: conversation.model, state: "writing", note: "" });
  app.view.show();
  app.view.field.focus();
  write(conversation, item);
}

function settingsAreRight() {
  const wrong = wrongSetting();
  if (!wrong) return true;
  openPanel("settings");
  wrong.focus();
  announce(wrong.validationMessage);
  return false;
}

async function write(conversation, item) {
  const run = { controller: new AbortController(), conversation, item };
  const speaker = new Speaker();
  app.run = run;
  app.leaving = false;
  conversation.updated = Date.now();
  save(conversation);
  refresh();
  announce("The model writes.");
  follow(true);
  let limited = false;
  try {
    const { path, body, place } = requestOf(conversation, item);
    for await (const { index, text, reason } of generate(path, body, run.controller.signal)) {
      if (reason === "length") limited = true;
      if (!text) continue;
      const following = atEnd();
      item.output = place(index, text);
      if (app.conversation === conversation) app.view.grow(text);
      follow(following);
      if (conversation.kind !== "translation") speaker.add(text);
      saveSoon(conversation);
    }
    item.state = limited ? "length" : "done";
  } catch (error) {
    if (error.name === "AbortError") item.state = "stopped";
    else {
      Object.assign(item, { state: "error", note: told(error) });
      if (error.status === 401) askForKey(error, again);
    }
  }
  if (conversation.kind === "translation") speaker.add(item.output); // its lines came mixed
  speaker.end();
  finish(run);
}

function finish(run) {
  const { conversation, item } = run;
  if (app.run === run) app.run = null;
  app.ended = performance.now();
  save(conversation);
  announce(noteOf(item, conversation.kind) || "The text is complete.");
  if (app.conversation !== conversation) return refresh();
  const following = atEnd();
  app.view.settle();
  refresh();
  return follow(following);
}

/** The request for an item, and place(index, text), which adds to the output and returns it. */
function requestOf(conversation, item) {
  const { kind, model, items } = conversation;
  const options = samplingOptions(kind);
  if (kind === "translation") {
    const lines = item.input.split("\n");
    const prompt = lines.filter((line) => line.trim());
    const texts = prompt.map(() => "");
    const place = (index, text) => {
      texts[index] += text;
      const rest = [...texts];
      return lines.map((line) => (line.trim() ? rest.shift() : "")).join("\n");
    };
    return { path: "v1/completions", body: { model, prompt, ...options }, place };
  }
  const place = (_, text) => item.output + text;
  if (kind === "story") {
    return { path: "v1/completions", body: { model, prompt: item.input, ...options }, place };
  }
  const messages = items.flatMap(({ input, output }) => [
    { role: "user", content: input },
    ...(output.trim() ? [{ role: "assistant", content: output }] : []),
  ]);
  return { path: "v1/chat/completions", body: { model, messages, ...options }, place };
}

function stop() {
  app.run?.controller.abort();
}

function atEnd() {
  const box = $("main");
  return box.scrollHeight - box.scrollTop - box.clientHeight < 80;
}

function follow(wanted) {
  if (!wanted) return;
  if (app.conversation.kind === "translation") $("sheet").scrollIntoView({ block: "nearest" });
  else $("main").scrollTop = $("main").scrollHeight;
}
