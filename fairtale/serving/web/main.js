"use strict";
// What the page does: it finds the models, writes texts, and keeps them.

const app = {
  models: [],
  conversation: null, // the open one
  view: null,
  run: null, // {controller, conversation, item} while a text is written
  ended: 0, // when the last one ended, in milliseconds
  retry: null, // what is tried again with a key
  leaving: false, // the page is being closed: what was written last is kept as it is
};

const actions = {
  again: () => again(),
  open: (id) => openConversation(id),
  async remove(id, title) {
    if (!(await confirmed(`Delete “${title}”?`))) return;
    deleteConversation(id);
    afterDeletion();
  },
};

// Models

async function connect() {
  $("notice").hidden = true;
  try {
    app.models = await listModels();
  } catch (error) {
    if (error.status === 401) askForKey(error, connect);
    else complain(told(error));
    return offerHistory();
  }
  const served = app.models.filter((model) => KINDS.includes(model.kind));
  const groups = KINDS.map((kind) => {
    const models = served.filter((model) => model.kind === kind);
    const group = element("optgroup", { label: TEXTS[kind].name });
    group.append(...models.map(({ id }) => element("option", { value: id }, id)));
    return group;
  });
  $("model").replaceChildren(...groups.filter((group) => group.children.length));
  $("model").disabled = served.length === 0;
  app.models = served;
  if (!served.length) {
    complain("The server names no model that this page knows how to use.");
    return offerHistory();
  }
  const open = app.conversation ?? lastOpened();
  if (open) return show(open);
  const last = served.find(({ id }) => id === recall("local", "fairtale.model")) ?? served[0];
  return startNew(last);
}

/** Without a model, what was written can still be read. */
function offerHistory() {
  const open = app.conversation ?? lastOpened();
  if (open) show(open);
  else showHistory(null, actions);
  if (!$("key-form").hidden) $("key").focus();
}

function lastOpened() {
  return loadConversation(recall("session", "fairtale.open") ?? "");
}

function modelNamed(id) {
  return app.models.find((model) => model.id === id);
}

function chooseModel() {
  const model = modelNamed($("model").value);
  keep("local", "fairtale.model", model.id);
  stop();
  if (model.kind !== app.conversation?.kind) return startNew(model);
  app.conversation.model = model.id;
  return showSettings(model.kind, model);
}

// Conversations

function startNew({ kind, id }) {
  const conversation = newConversation(kind, id);
  conversation.draft = recall("session", `fairtale.draft.${kind}`) ?? "";
  show(conversation);
}

function openConversation(id) {
  const conversation = loadConversation(id);
  if (!conversation) return afterDeletion(); // deleted in another tab
  closePanels();
  return id === app.conversation?.id ? app.view.field.focus() : show(conversation);
}

function afterDeletion() {
  const { conversation } = app;
  if (conversation?.items.length && !loadConversation(conversation.id)) {
    conversation.deleted = true; // what is still being written does not bring it back
    startNew(modelNamed($("model").value) ?? conversation);
  }
  showHistory(app.conversation?.id, actions);
  ($("conversations").querySelector(".entry") ?? $("new")).focus();
}

function show(conversation) {
  stop();
  app.conversation = conversation;
  const { kind } = conversation;
  if (!modelNamed(conversation.model)) {
    const other = app.models.find((model) => model.kind === kind);
    if (other) conversation.model = other.id;
    else if (app.models.length) complain(`No model like ${conversation.model} is served here.`);
  }
  if (modelNamed(conversation.model)) $("model").value = conversation.model;
  keep("session", "fairtale.open", conversation.id);
  document.body.dataset.kind = kind;
  app.view = VIEWS[kind](conversation, actions);
  app.view.field.addEventListener("input", edited);
  app.view.field.addEventListener("keydown", enter);
  $("welcome-title").textContent = TEXTS[kind].title;
  $("welcome-text").textContent = TEXTS[kind].help;
  $("hint").textContent = TEXTS[kind].hint;
  $("turns").hidden = kind !== "dialog";
  $("sheet").hidden = kind === "dialog";
  for (const part of ["composer", "turns", "sheet", "earlier"]) $(part).replaceChildren();
  $("earlier").hidden = true;
  app.view.show();
  showSettings(kind, modelNamed(conversation.model));
  refresh();
  // who chooses among models by arrow keys stays there
  if (document.activeElement !== $("model")) app.view.field.focus();
  if (kind === "translation") $("main").scrollTop = 0;
  else follow(true);
}

/** Bring buttons, titles and the history up to date. */
function refresh() {
  const { conversation, run } = app;
  const item = conversation.items.at(-1);
  const focused = document.activeElement;
  $("go").hidden = Boolean(run);
  $("stop").hidden = !run;
  $("go").textContent = TEXTS[conversation.kind].go;
  $("go").disabled = !modelNamed(conversation.model);
  const text = conversation.kind !== "dialog" && !run && Boolean(item?.output);
  $("copy").hidden = !text;
  $("again").hidden = !text && !(item?.state === "error" && conversation.kind !== "dialog");
  if (focused?.hidden) app.view.field.focus();
  $("welcome").hidden = conversation.items.length > 0;
  $("title").textContent = item ? titleOf(conversation) : TEXTS[conversation.kind].title;
  document.title = item ? `${titleOf(conversation)} – fairtale` : "fairtale";
  showHistory(conversation.id, actions);
}

let saving = 0;

function saveSoon(conversation) {
  saving ||= setTimeout(() => save(conversation), 300);
}

function save(conversation) {
  clearTimeout(saving);
  saving = 0;
  if (conversation.deleted || app.leaving) return;
  if (conversation.items.length) {
    forget("session", `fairtale.draft.${conversation.kind}`);
    if (!saveConversation(conversation)) {
      complain("This browser's storage is full or switched off: what is written now is not kept.");
    }
  } else keep("session", `fairtale.draft.${conversation.kind}`, conversation.draft);
}

function edited() {
  const { conversation, view } = app;
  const item = conversation.items.at(-1);
  if (conversation.kind === "story" && item) {
    const first = item.state !== "edited";
    Object.assign(item, { input: view.field.value, output: "", state: "edited", note: "" });
    view.settle();
    if (first) refresh();
  } else conversation.draft = view.field.value;
  saveSoon(conversation);
}

// Messages

function told(error) {
  if (!error.retryAfter) return error.message;
  const wait = /^\d+$/.test(error.retryAfter) ? `${error.retryAfter} s` : `until ${error.retryAfter}`;
  return `${error.message} (The server asks to wait ${wait}.)`;
}

function complain(message) {
  $("notice-text").textContent = message;
  $("notice").hidden = false;
  $("reconnect").textContent = app.models.length ? "Close" : "Try again";
}

function askForKey(error, retry) {
  app.retry = retry;
  $("key-error").textContent = sessionKey() ? error.message : "";
  $("key-form").hidden = false;
  $("key").focus();
}

function takeKey(event) {
  event.preventDefault();
  const key = $("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(key)) {
    $("key-error").textContent = "A key has letters, digits and signs, and no spaces.";
    return;
  }
  useKey(key);
  $("key").value = "";
  $("key-form").hidden = true;
  app.view?.field.focus();
  app.retry();
}

// Keys

function enter(event) {
  // 229: Safari ends a composition before it reports the key
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  send();
}

function escape(event) {
  if (event.key !== "Escape" || event.isComposing || $("confirm").open) return;
  const name = document.body.dataset.panel;
  if (app.run) stop();
  else if (name && (!PANELS[name].matches || $(name).contains(event.target))) closePanels();
}

function leave() {
  if (app.conversation) save(app.conversation);
  app.leaving = true;
}

function setUp() {
  $("model").addEventListener("change", chooseModel);
  $("new").addEventListener("click", () => {
    closePanels();
    if (app.models.length) startNew(modelNamed($("model").value));
    else connect();
  });
  $("delete-all").addEventListener("click", async () => {
    if (!(await confirmed("Delete all conversations of this browser?"))) return;
    for (const { id } of loadConversations()) deleteConversation(id);
    afterDeletion();
  });
  $("defaults").addEventListener("click", () => {
    const { kind, model } = app.conversation ?? {};
    if (kind) resetSettings(kind, modelNamed(model));
  });
  $("bar").addEventListener("submit", (event) => {
    event.preventDefault();
    if (performance.now() - app.ended > 400) send(); // this click was meant for Stop
  });
  $("stop").addEventListener("click", stop);
  $("again").addEventListener("click", again);
  $("copy").addEventListener("click", () => {
    const { input, output } = app.conversation.items.at(-1);
    copy(app.conversation.kind === "story" ? input + output : output, $("copy"));
  });
  $("reconnect").addEventListener("click", () => {
    if (!app.models.length) return connect();
    $("notice").hidden = true;
    return app.view.field.focus();
  });
  $("key-form").addEventListener("submit", takeKey);
  document.addEventListener("keydown", escape);
  window.addEventListener("pagehide", leave);
  window.addEventListener("beforeunload", leave); // before the connection is closed
  window.addEventListener("pageshow", () => (app.leaving = false));
  window.addEventListener("storage", () => showHistory(app.conversation?.id, actions));
  setUpPanels();
  connect();
}

setUp();
