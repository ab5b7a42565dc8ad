"use strict";
// One view for each kind of model. A view has `field`, where people write, and
// show(): the whole conversation; grow(text): text at the end of the last item; settle(): the state
// of the last item has changed.

const TEXTS = {
  story: {
    name: "Story",
    title: "Begin a story",
    help: "Write the first words, or none. The model goes on from there; change the text as you like.",
    label: "Story",
    placeholder: "Once upon a time",
    go: "Continue",
    hint: "Enter continues, Shift+Enter starts a line, Esc stops",
  },
  dialog: {
    name: "Dialog",
    title: "Say something",
    help: "The model answers, and takes into account what was said before.",
    label: "Message",
    placeholder: "Message",
    go: "Send",
    hint: "Enter sends, Shift+Enter starts a line, Esc stops",
  },
  translation: {
    name: "Translation",
    title: "Translate",
    help: "Write one sentence a line. Each line is translated by itself.",
    label: "Text to translate",
    placeholder: "Text to translate",
    go: "Translate",
    hint: "Enter translates, Shift+Enter starts a line, Esc stops",
  },
};

const NOTES = {
  length: "The limit of tokens was reached.",
  stopped: "Stopped.",
  cut: "Cut off when the page was closed.",
};

/** What people are told of the end of a text, or "". */
function noteOf(item, kind) {
  if (item.state === "error") return item.note;
  if (item.state === "done" && kind === "story") return "The model ended the story here.";
  if (item.state === "done" && !item.output.trim()) return "The model wrote nothing.";
  return NOTES[item.state] ?? "";
}

function noteElement(item, kind) {
  const className = item.state === "error" ? "error" : "muted";
  return element("p", { className: `note ${className}`, dir: "auto" }, noteOf(item, kind));
}

function dialogView(conversation, actions) {
  const { label, placeholder } = TEXTS.dialog;
  const writing = growingField(label, placeholder);
  writing.show(conversation.draft);
  let reply = null; // the last one
  let end = null;

  function turn(item) {
    reply = passage(item.output);
    end = element("div", { className: "end" });
    return element(
      "li",
      {},
      element(
        "div",
        { className: "said" },
        element("h3", {}, "You"),
        passage(item.input),
      ),
      element("h3", { dir: "auto" }, item.model),
      reply,
      end,
    );
  }

  function settle() {
    const item = conversation.items.at(-1);
    reply.classList.toggle("writing", item.state === "writing");
    if (item.state === "writing") reply.replaceChildren(item.output);
    $("turns").setAttribute("aria-busy", String(item.state === "writing"));
    close(item, true);
  }

  function close(item, last) {
    if (item.state === "writing") return end.replaceChildren();
    const row = element("div", { className: "row" });
    if (item.output) row.append(copyButton(item.output));
    if (last) row.append(button("Try again", actions.again));
    return end.replaceChildren(noteElement(item, "dialog"), row);
  }

  return {
    field: writing.field,
    show() {
      if (!writing.box.isConnected) $("composer").replaceChildren(writing.box); // keeps the focus
      $("turns").replaceChildren();
      for (const item of conversation.items) {
        $("turns").append(turn(item));
        close(item, item === conversation.items.at(-1));
      }
      if (conversation.items.length) settle();
    },
    grow(text) {
      reply.append(text);
      if (!reply.lang) setLanguage(reply, text);
    },
    settle,
    clear: () => writing.show(""),
  };
}

function storyView(conversation) {
  const { label, placeholder } = TEXTS.story;
  const writing = growingField(label, placeholder);
  const end = element("div", { className: "end" });

  function settle() {
    const item = conversation.items.at(-1);
    const text = item ? item.input + item.output : conversation.draft;
    writing.show(text, item?.input.length);
    writing.field.readOnly = item?.state === "writing";
    writing.box.classList.toggle("writing", item?.state === "writing");
    end.replaceChildren(item ? noteElement(item, "story") : "");
  }

  return {
    field: writing.field,
    show() {
      $("sheet").className = "manuscript";
      if (!writing.box.isConnected) $("sheet").replaceChildren(writing.box, end);
      settle();
    },
    grow: settle,
    settle,
    clear() {},
  };
}

function translationView(conversation) {
  const { label, placeholder } = TEXTS.translation;
  const writing = growingField(label, placeholder);
  const target = passage("");
  const end = element("div", { className: "end" });
  const last = conversation.items.at(-1);
  writing.show(conversation.draft || (last?.input ?? ""));

  function grow() {
    const text = conversation.items.at(-1)?.output ?? "";
    setLanguage(target, text).replaceChildren(text);
  }

  function settle() {
    const item = conversation.items.at(-1);
    grow();
    target.classList.toggle("writing", item?.state === "writing");
    end.replaceChildren(item ? noteElement(item, "translation") : "");
  }

  function showEarlier() {
    const pairs = conversation.items.slice(0, -1).reverse().map((item) =>
      element("li", {}, passage(item.input), passage(item.output), copyButton(item.output)),
    );
    $("earlier").replaceChildren(...pairs);
    $("earlier").hidden = pairs.length === 0;
  }

  return {
    field: writing.field,
    show() {
      $("sheet").className = "pair";
      const source = element("section", {}, element("h3", { ariaHidden: "true" }, "Text"), writing.box);
      const result = element("section", {}, element("h3", {}, "Translation"), target, end);
      if (!writing.box.isConnected) $("sheet").replaceChildren(source, result);
      settle();
      showEarlier();
    },
    grow,
    settle,
    clear() {},
  };
}

const VIEWS = { story: storyView, dialog: dialogView, translation: translationView };
