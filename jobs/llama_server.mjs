// llama.cpp for jobs/bench_llama.py: `node llama_server.mjs FOLDER MODEL.gguf LENGTH THREADS`; FOLDER holds node_modules.
// Requests on stdin, a line each: {workload, tokens, prompt, logits}. Answers on stdout: {seconds, logits}.
// Time is taken around the calls of the native addon, so that neither JSON nor JavaScript's queue counts as llama.cpp's.
import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";

const [folder, path, length, threads] = process.argv.slice(2);
const {getLlama} = await import(pathToFileURL(`${folder}/node_modules/node-llama-cpp/dist/index.js`));
const llama = await getLlama({gpu: false, build: "never", skipDownload: true, maxThreads: 0});
const model = await llama.loadModel({modelPath: path});
const context = await model.createContext({contextSize: +length, batchSize: +length, threads: {min: +threads, ideal: +threads}});
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
async function decode(tokens, prompt, logits) {
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

function run({workload, tokens, prompt, logits}) {
    native.disposeSequence(0); // an empty cache
    return workload === "decode" ? decode(tokens, prompt, logits) : read(tokens, workload === "prefill", logits);
}

console.log(JSON.stringify({threads: native.getThreads()}));
for await (const line of createInterface({input: process.stdin})) console.log(JSON.stringify(await run(JSON.parse(line))));
process.exit(0);
