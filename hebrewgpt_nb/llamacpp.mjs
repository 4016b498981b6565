// llama.cpp for hebrewgpt_nb.llamacpp: `node llamacpp.mjs FOLDER MODEL.gguf LENGTH THREADS EXACT`; FOLDER holds node_modules.
// With EXACT, keys, values and attention are computed in float32; by default llama.cpp takes float16 for them.
// Requests on stdin, a line each, with the name of what to do in `workload`; answers on stdout, a line each.
// Time is taken around the calls of the native addon, so that neither JSON nor JavaScript's queue counts as llama.cpp's.
import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";

const [folder, path, length, threads, exact] = process.argv.slice(2);
const {getLlama} = await import(pathToFileURL(`${folder}/node_modules/node-llama-cpp/dist/index.js`));
const llama = await getLlama({gpu: false, build: "never", skipDownload: true, maxThreads: 0});
const model = await llama.loadModel({modelPath: path});
const size = +length || model.trainContextSize;
const inFloat32 = {flashAttention: false, experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"};
const context = await model.createContext({contextSize: size, batchSize: size, threads: {min: +threads, ideal: +threads},
    ...(exact === "true" ? inFloat32 : {})});
const native = context._ctx; // private, so the Makefile pins the version of node-llama-cpp
const sampler = new llama._bindings.AddonSampler(model._model);
sampler.applyConfig({temperature: 0}); // greedy

// Evaluate `tokens` at the positions from `first`; the logits of the indexes `scored` are kept.
async function evaluate(tokens, first, scored) {
    native.initBatch(tokens.length);
    const at = native.addToBatch(0, first, Uint32Array.from(tokens), Uint32Array.from(scored));
    await native.decodeBatch();
    return at;
}

// (V,) of one position; the addon gives them as token, logit, token, logit ...
async function logitsAt(index) {
    const pairs = (await native.sampleToken(index, sampler, false, false, true, false))[3];
    const row = new Array(pairs.length / 2);
    for (let i = 0; i < pairs.length; i += 2) row[pairs[i]] = +pairs[i + 1].toPrecision(7);
    return row;
}

// Read all tokens at once, and look for the best next one. With `all`, logits of every position are computed.
async function read(tokens, all, logits) {
    const begun = performance.now();
    const at = await evaluate(tokens, 0, all ? tokens.keys() : [tokens.length - 1]);
    if (!all) await native.sampleToken(at[0], sampler);
    const seconds = (performance.now() - begun) / 1000;
    const rows = [];
    if (logits) for (const i of at) rows.push(await logitsAt(i));
    return {seconds, logits: rows};
}

// One token after the other behind a prompt; the best next one is looked for each time, reading the prompt is not timed.
async function decode({tokens, prompt, logits}) {
    await evaluate(tokens.slice(0, prompt), 0, [prompt - 1]);
    const rows = [];
    const begun = performance.now();
    for (let i = prompt; i < tokens.length; i++) {
        const [at] = await evaluate([tokens[i]], i, [0]);
        await native.sampleToken(at, sampler);
        if (logits) rows.push(await logitsAt(at));
    }
    return {seconds: (performance.now() - begun) / 1000, logits: rows};
}

// The best next token, `count` times.
async function greedy({tokens, count}) {
    const made = [];
    let unseen = tokens;
    for (let n = 0; n < count; n++) {
        const first = n ? tokens.length + n - 1 : 0;
        const [at] = await evaluate(unseen, first, [unseen.length - 1]);
        unseen = [await native.sampleToken(at, sampler)];
        made.push(unseen[0]);
    }
    return {tokens: made};
}

const vocabulary = model._model;
const workloads = {
    decode, greedy,
    prefill: ({tokens, logits}) => read(tokens, true, logits),
    ttft: ({tokens, logits}) => read(tokens, false, logits),
    encode: ({texts, special}) => ({rows: texts.map((text) => Array.from(vocabulary.tokenize(text, special)))}),
    decode_text: ({rows}) => ({texts: rows.map((row) => vocabulary.detokenize(Uint32Array.from(row), false))}),
    render: ({template, values}) => ({text: new llama._bindings.AddonJinjaRenderer(template).render(values)}),
};

console.log(JSON.stringify({threads: native.getThreads(), begins: vocabulary.shouldPrependBosToken()}));
for await (const line of createInterface({input: process.stdin})) {
    const request = JSON.parse(line);
    if (request.tokens) native.disposeSequence(0); // an empty cache
    console.log(JSON.stringify(await workloads[request.workload](request)));
}
process.exit(0);
