"use strict";
// The history, the settings, and the question before something is deleted.

const PANELS = {
  // as wide as this, the panel stands beside the text and takes nothing from it
  history: matchMedia("(min-width: 56rem)"),
  settings: matchMedia("(min-width: 75rem)"),
};

function openPanel(name) {
  closePanels();
  document.body.dataset.panel = name;
  $(name).hidden = false;
  $(`show-${name}`).setAttribute("aria-expanded", "true");
  if (!PANELS[name].matches) cover(name);
  $(`close-${name}`).focus();
}

/** What lies under a panel cannot be reached while it is open. */
function cover(name) {
  for (const other of document.querySelectorAll("nav, header, main, aside, .skip")) {
    other.inert = other.id !== name;
  }
}

/** Close the open panel and go back to its button; false when none was open. */
function closePanels() {
  const name = document.body.dataset.panel;
  if (!name) return false;
  delete document.body.dataset.panel;
  for (const part of document.querySelectorAll("[inert]")) part.inert = false;
  $("settings").hidden = true;
  $(`show-${name}`).setAttribute("aria-expanded", "false");
  if (!$(`show-${name}`).hidden) $(`show-${name}`).focus();
  return true;
}

function setUpPanels() {
  for (const name of Object.keys(PANELS)) {
    $(`show-${name}`).addEventListener("click", () => {
      if (document.body.dataset.panel === name) closePanels();
      else openPanel(name);
    });
    $(`close-${name}`).addEventListener("click", closePanels);
    PANELS[name].addEventListener("change", closePanels);
  }
  document.addEventListener("pointerdown", (event) => {
    const name = document.body.dataset.panel;
    if (!name || PANELS[name].matches || $(name).contains(event.target)) return;
    event.preventDefault();
    closePanels();
  });
}

/** Ask before deleting. Resolves to true or false. */
function confirmed(question) {
  const box = $("confirm");
  $("confirm-text").textContent = question;
  box.returnValue = "";
  box.showModal();
  return new Promise((resolve) => {
    $("confirm-yes").onclick = () => box.close("yes");
    $("confirm-no").onclick = () => box.close("");
    box.onclose = () => resolve(box.returnValue === "yes");
  });
}

/** Fill the list of conversations; `current` is the id of the open one. */
function showHistory(current, actions) {
  const conversations = loadConversations();
  const rows = conversations.map((conversation) => {
    const title = titleOf(conversation);
    const about = `${TEXTS[conversation.kind].name}, ${timeOf(conversation.updated)}`;
    const entry = button("", () => actions.open(conversation.id), { className: "entry" });
    entry.append(
      element("span", { className: "name", dir: "auto" }, title),
      element("span", { className: "muted" }, about),
    );
    if (conversation.id === current) entry.setAttribute("aria-current", "true");
    const remove = button("Delete", () => actions.remove(conversation.id, title));
    remove.setAttribute("aria-label", `Delete ${title}`);
    return element("li", {}, entry, remove);
  });
  $("conversations").replaceChildren(...rows);
  $("no-history").hidden = rows.length > 0;
  $("delete-all").hidden = rows.length === 0;
}

function timeOf(time) {
  const date = new Date(time);
  const today = date.toDateString() === new Date().toDateString();
  const form = today ? { timeStyle: "short" } : { dateStyle: "medium" };
  return new Intl.DateTimeFormat(undefined, form).format(date);
}
