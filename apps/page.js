// What the page shows by itself: conversations, pairs of answers, tokens, results. All text is set as text, never as HTML.
const page = (() => {
const words = WORDS, english = document.documentElement.lang == "en", KEPT = "hebrewgpt-talk"

const number = n => typeof n == "number" ? n.toLocaleString("en", {maximumFractionDigits: 3}) : n
const say = (key, ...values) => words[key][+english].replace(/\{(\d)\}/g, (_, n) => number(values[n]))
const switchLanguage = () => { document.cookie = `lang=${english ? "he" : "en"};path=/;max-age=31536000;samesite=lax`; location.reload() }

// Messages that Gradio has in English alone.
new MutationObserver(() => document.querySelectorAll(".toast-wrap").forEach(toasts => {
  const texts = document.createTreeWalker(toasts, NodeFilter.SHOW_TEXT)
  for (let node; node = texts.nextNode();) { const key = Object.keys(words).find(key => key.trim() == node.data.trim()); if (key && say(key) != node.data) node.data = say(key) }
})).observe(document.documentElement, {childList: true, subtree: true})

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes))
    if (name.startsWith("on")) element[name] = value
    else if (name.startsWith("aria-")) element.setAttribute(name, value)
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value)
  element.append(...children.filter(child => child != null && child !== false))
  return element
}

// --- Hebrew, English and code in one text: each paragraph has its own direction, code runs from left to right.
const CODE = /^(def|class|for|while|if|elif|else|try|except|finally|with|async)\b.*:\s*(#.*)?$|^(import|from) \w[\w.]*( import .*)?$|^(return|print|function|const|let|var)\b.*[()={}\]\w]$|^[\w.\[\]]+ ?(\(.*\)|[-+*\/]?= ?\S.*);?$|^[@}{].*|[;{}]$/
function blocks(text) { // [{code, text}]
  const found = []
  let fenced = false
  for (const line of text.split("\n")) {
    const last = found.at(-1)
    if (/^\s*```/.test(line)) { fenced = !fenced; found.push({code: fenced, text: fenced ? null : "", edge: !fenced}); continue }
    const goesOn = last?.code && (fenced || /^(\s|#|$)/.test(line) || CODE.test(line))
    if (goesOn) last.text = last.text === null ? line : last.text + "\n" + line
    else found.push({code: fenced || CODE.test(line), text: line})
  }
  return found.filter(block => !block.edge)
}
const inline = line => line.split(/(`[^`]+`)/).map((part, n) => n % 2 ? make("code", {dir: "ltr"}, part.slice(1, -1)) : part)
const paragraphs = text => blocks(text).map(block => block.code
  ? make("pre", {dir: "ltr", tabindex: 0}, make("code", {}, (block.text ?? "").replace(/\n+$/, "")))
  : make("p", {dir: "auto"}, ...inline(block.text)))

const ICONS = {
  again: "M13 8a5 5 0 1 1-1.6-3.7M13 1.5V5H9.5", copy: "M5.5 5.5h8v8h-8zM3 10.5H2.5v-8h8V3", edit: "M2.5 13.5l.8-3.3 7.9-7.9 2.5 2.5-7.9 7.9z",
  like: "M4.5 7L8 1.500l1.300 1-.8 4H13l-1 7H4.500zM2 7h2.500v6.500H2z", dislike: "M4.500 9L8 14.500l1.300-1-.8-4H13l-1-7H4.500zM2 9h2.500V2.500H2z"}
function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), path = document.createElementNS(svg.namespaceURI, "path")
  for (const [key, value] of Object.entries({viewBox: "0 0 16 16", width: 16, height: 16, fill: "none", stroke: "currentColor", "stroke-width": 1.4, "aria-hidden": true})) svg.setAttribute(key, value)
  path.setAttribute("d", ICONS[name])
  svg.append(path)
  return svg
}
const button = (name, onclick, more = {}) => make("button", {type: "button", class: `act ${name}`, title: say(name), "aria-label": say(name), onclick, ...more}, ICONS[name] ? icon(name) : say(name))
async function copy(text, at) {
  await navigator.clipboard.writeText(text)
  at.title = say("copied"); at.classList.add("done")
  setTimeout(() => { at.title = say("copy"); at.classList.remove("done") }, 1500)
}

// --- one message
const isBusy = talk => ["waiting", "writing"].includes(talk?.at(-1)?.state)
const ENDS = {cut: m => [m.tokens], full: m => [m.context], late: m => [m.limit], stopped: () => []}
function status(m) { // what is said below an answer
  const lines = []
  if (m.state == "waiting") lines.push(m.place ? say("waiting", m.place) : say("starting"))
  if (m.note) lines.push(say(...m.note))
  if (m.state in ENDS) lines.push(say(m.state, ...ENDS[m.state](m)))
  if (m.state == "done" && !m.text) lines.push(say("silent"))
  if (m.dropped) lines.push(say("dropped", m.dropped, m.context))
  if (m.alone) lines.push(say("alone"))
  return lines
}
function figures(m) {
  const said = []
  if (m.tokens && m.seconds) said.push(say("rate", m.tokens, +(m.tokens / m.seconds).toFixed(1)))
  if (m.model) said.push(m.model)
  if (m.seed != null) said.push(say("seed_was", String(m.seed)))
  return said.join(" · ")
}
function body(m) {
  return make("div", {class: "text"}, ...paragraphs(m.text), m.state == "writing" && make("span", {class: "caret", "aria-hidden": true}))
}

// --- a conversation
function talk(element, props, watch, trigger) {
  const log = make("div", {class: "log", role: "log", "aria-live": "polite", tabindex: 0})
  let drawn = [], editing = null, wasBusy = false
  element.replaceChildren(log)
  const set = (value, event, data) => { props.value = value; editing = null; draw(); if (event) setTimeout(() => trigger(event, data)) }
  const waiting = more => ({role: "assistant", text: "", state: "waiting", ...more})
  const at = (index, ...messages) => [...props.value.slice(0, index), ...messages]
  const ask = (index, text) => text.trim() && set(at(index, {role: "user", text}, waiting()), "write")

  function acts(m, index, busy) {
    const off = {disabled: busy}
    if (m.role == "user") return make("div", {class: "acts"}, button("edit", () => { editing = index; draw() }, off), button("copy", e => copy(m.text, e.currentTarget)))
    const like = value => () => set(props.value.map((one, n) => n == index ? {...one, liked: one.liked == value ? 0 : value} : one), "like", {index})
    return make("div", {class: "acts"},
      ["cut", "late", "stopped"].includes(m.state) && m.text && button("more", () => set(at(index, {...m, state: "waiting"}), "write"), {...off, class: "act framed more"}),
      button("again", () => set(at(index, waiting(m.seed == null ? {} : {seed: (m.seed + 1) % 2 ** 31})), "write"), off), button("copy", e => copy(m.text, e.currentTarget)),
      button("like", like(1), {...off, "aria-pressed": m.liked == 1}), button("dislike", like(-1), {...off, "aria-pressed": m.liked == -1}),
      m.model && button("received", () => trigger("received", {index}), {...off, class: "act framed received"}))
  }
  function editor(m, index) {
    const field = make("textarea", {dir: "auto", rows: Math.min(8, m.text.split("\n").length + 1), "aria-label": say("edit"),
      onkeydown: e => { if (e.key == "Escape") { editing = null; draw() } if (e.key == "Enter" && !e.shiftKey) { e.preventDefault(); ask(index, field.value) } }})
    field.value = m.text
    setTimeout(() => field.focus())
    return make("article", {class: "user editing"}, field, make("div", {class: "acts"},
      button("ask_again", () => ask(index, field.value), {class: "act framed main"}), button("cancel", () => { editing = null; draw() }, {class: "act framed"})))
  }
  function message(m, index, busy) {
    if (editing === index && !busy) return editor(m, index)
    const notes = status(m).map(line => make("p", {class: "note", dir: "auto"}, line))
    const isOn = ["waiting", "writing"].includes(m.state)
    return make("article", {class: `${m.role} ${m.state ?? ""}`, "aria-busy": isOn}, body(m), ...notes,
      !isOn && make("div", {class: "below"}, acts(m, index, busy), m.role == "assistant" && make("span", {class: "figures"}, figures(m))))
  }
  function welcome() {
    return make("div", {class: "welcome"}, make("h2", {}, say("empty_chat")), make("div", {class: "chips"},
      ...props.examples.map(text => make("button", {type: "button", class: "chip", dir: "auto", onclick: () => ask(0, text)}, text))))
  }
  function draw() {
    const value = props.value ?? [], busy = isBusy(value), atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80
    const now = value.length ? value.map((m, n) => JSON.stringify([m, busy, editing === n])) : ["welcome"]
    now.forEach((key, n) => {
      if (key == drawn[n]) return
      const element = value.length ? message(value[n], n, busy) : welcome()
      if (log.children[n]) log.children[n].replaceWith(element); else log.append(element)
    })
    while (log.children.length > now.length) log.lastChild.remove()
    if (atEnd || now.length > drawn.length) log.scrollTop = log.scrollHeight
    drawn = now
    document.body.classList.toggle("busy", busy)
    if (isRestored) localStorage.setItem(KEPT, JSON.stringify(value))
  }
  watch("value", draw)
  draw()
}
// What was kept of the last conversation, and what the buttons beside the question do to one.
let isRestored = false
function kept() {
  isRestored = true
  try { return stopped(JSON.parse(localStorage.getItem(KEPT) ?? "[]")) } catch { return [] }
}
const stopped = talk => talk.map(m => ["waiting", "writing"].includes(m.state) ? {...m, state: "stopped"} : m)
const asked = (text, talk) => text.trim() && !isBusy(talk) ? ["", [...talk, {role: "user", text}, {role: "assistant", text: "", state: "waiting"}]] : [text, talk]
const undone = (text, talk) => { const n = talk.findLastIndex(m => m.role == "user"); return n < 0 ? [text, talk] : [talk[n].text, talk.slice(0, n)] }
function save(talk) {
  const messages = talk.map(m => ({role: m.role, content: m.text}))
  const link = make("a", {download: "hebrewgpt-chat.json", href: URL.createObjectURL(new Blob([JSON.stringify({messages}, null, 1)], {type: "application/json"}))})
  link.click()
  URL.revokeObjectURL(link.href)
}

// --- tokens: [text, id, bytes, kind] each
function coloured(pieces) {
  const lines = [[]]
  pieces.forEach(([text, id, bytes, kind], n) => {
    const said = {class: `piece c${n % 5} ${kind}`, title: id == null ? null : say("piece", id, bytes)}
    lines.at(-1).push(make(kind == "control" ? "bdi" : "span", said, text.replace(/\n/g, "↵"))) // a bdi says nothing of its line's direction
    if (text.includes("\n")) lines.push([])
  })
  return make("div", {class: "pieces"}, ...lines.map(line => make("div", {dir: "auto"}, ...line)))
}
function received(element, props, watch) {
  const dialog = make("dialog", {class: "received"})
  element.replaceChildren(dialog)
  watch("value", () => {
    if (!props.value) return
    dialog.replaceChildren(make("h3", {}, say("received_title", props.value.pieces.length)), coloured(props.value.pieces), make("form", {method: "dialog"}, make("button", {class: "act framed main"}, say("close"))))
    dialog.showModal()
  })
}
const table = (rows, attributes = {}) => make("table", attributes, ...rows.map((cells, n) => make("tr", {}, ...cells.map(cell => make(n ? "td" : "th", {}, typeof cell == "object" ? cell : make("bdi", {}, cell))))))
function tokens(element, props, watch) {
  const draw = () => element.replaceChildren(...(props.value ? [
    make("h3", {}, say("prefixes")), coloured(props.value.prefixes),
    make("div", {class: "pair"}, ...props.value.sides.map(side => make("section", {}, make("h3", {}, make("bdi", {}, side.name)), make("p", {class: "counts"},
      ...[["tokens_count", side.tokens], ["words_count", side.words], ["bytes", side.bytes], ["per_word", side.per_word], ["bytes_per_token", side.bytes_per_token]]
        .map(([key, n]) => make("span", {}, make("b", {}, number(n)), " " + say(key)))), coloured(side.pieces))))] : []))
  watch("value", draw)
  draw()
}

// --- two answers
function pair(element, props, watch, trigger) {
  const letters = [say("side_a"), say("side_b")]
  function draw() {
    const {sides, rows, names, voted, gone} = props.value ?? {}
    if (!sides) return element.replaceChildren(make("p", {class: "welcome"}, say("empty_pair")))
    const columns = sides.map((m, n) => make("section", {class: "assistant"}, make("h3", {}, letters[n], ...(names ? [" · ", make("bdi", {}, names[n])] : [])), body(m),
      ...status(m).map(line => make("p", {class: "note", dir: "auto"}, line)), m.text && make("div", {class: "acts"}, button("copy", e => copy(m.text, e.currentTarget)))))
    const votes = ["left", "right", "tie", "bad"].map(vote => make("button", {type: "button", class: "vote", onclick: () => trigger("vote", {vote}), disabled: !!voted, "aria-pressed": voted == vote}, say(`vote_${vote}`)))
    element.replaceChildren(make("div", {class: "pair"}, ...columns), ...(rows ? [
      make("div", {class: "votes"}, ...votes), voted && make("p", {class: "note", role: "status"}, say("voted")), gone && make("p", {class: "note"}, say("vote_gone")),
      table([["", ...letters], ...rows.map(([key, a, b, by]) => [say(key, by == null ? "" : names ? names[by] : letters[by]), a == null ? "–" : number(a), b == null ? "–" : number(b)])], {class: "figures"})].filter(Boolean) : []))
  }
  watch("value", draw)
  draw()
}

// --- results
const SIGNS = {"▲": "better", "▼": "worse", "=": "same", "?": "not_comparable"}
const rounded = value => !Number.isFinite(value) ? "∞" : Math.abs(value) >= 1000 ? number(Math.round(value)) : `${+value.toPrecision(4)}`
function bars({cells}) { // a bar for each model, with its interval
  const most = Math.max(...Object.values(cells).flatMap(c => [c.value, c.high]).filter(Number.isFinite)) || 1, wide = value => Math.max(0, Math.min(100, 100 * (Number.isFinite(value) ? value : most) / most))
  return make("div", {class: "bars"}, ...Object.entries(cells).map(([name, {value, low, high, verdict, n}], at) => make("div", {title: Object.entries(n ?? {}).map(([what, many]) => `${number(many)} ${what}`).join(", ")},
    make("bdi", {class: "name"}, name), make("span", {class: "track"}, make("i", {class: `s${at % 4}`, style: `width:${wide(value)}%`}), low != null && high != null && make("u", {style: `inset-inline-start:${wide(low)}%;width:${wide(high) - wide(low)}%`})),
    make("b", {dir: "ltr"}, low == null ? rounded(value) : `${rounded(value)}  (${rounded(low)}–${rounded(high)})`), make("span", {class: `verdict ${SIGNS[verdict] ?? ""}`, title: SIGNS[verdict] && say(SIGNS[verdict])}, verdict))))
}
function results(element, props, watch) {
  const draw = () => element.replaceChildren(...(props.value?.length ? props.value.map(report => make("section", {}, make("h3", {}, make("bdi", {}, report.name)),
    report.error ? make("p", {class: "note", dir: "auto"}, report.error) : make("div", {class: "wide"}, table([[say("metric"), ""],
      ...report.rows.map(row => [make("span", {}, make("bdi", {}, row.metric), make("small", {}, make("bdi", {}, row.unit))), bars(row)])], {class: "results"})))) : [make("p", {class: "welcome"}, say("no_results"))]))
  watch("value", draw)
  draw()
}
return {talk, pair, tokens, received, results, kept, asked, undone, stopped, save, switchLanguage}
})()
