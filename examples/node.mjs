// Run a bundle's graph in Node, without Python.
//
//   npm install onnxruntime-node @huggingface/transformers
//   node node.mjs BUNDLE TITLE...
//
// Prints each title's vector as a line of JSON. Prompts are left out: a model that has them wants its prompt before each title.
import { readFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { AutoTokenizer, env } from "@huggingface/transformers";
import { InferenceSession, Tensor } from "onnxruntime-node";

const [bundle, ...titles] = process.argv.slice(2);
const { model, graphs, default_variant } = JSON.parse(readFileSync(join(bundle, "manifest.json"), "utf8"));
const graph = graphs.find(({ variant, target }) => variant === default_variant && target === "cpu");

env.allowRemoteModels = false;
env.localModelPath = dirname(resolve(bundle));
const tokenizer = await AutoTokenizer.from_pretrained(basename(resolve(bundle)));
const rows = await tokenizer(titles, { padding: true, truncation: true, max_length: model.max_tokens });
// transformers.js cuts the closing token off a title that is too long; every other tokenizer keeps it.
const closing = BigInt(tokenizer.encode("").at(-1));
const longest = rows.input_ids.dims[1];
for (let end = longest - 1; end < rows.input_ids.data.length; end += longest) {
  if (rows.attention_mask.data[end] === 1n) rows.input_ids.data[end] = closing;
}

// int8 products overflow on x86 CPUs without VNNI otherwise. On CPUs with VNNI or AMX leave it out: it is slower there.
const session = await InferenceSession.create(join(bundle, graph.path), { extra: { session: { x64quantprecision: "1" } } });
const inputs = ["input_ids", "attention_mask"].map((name) => [name, new Tensor("int64", rows[name].data, rows[name].dims)]);
const { sentence_embedding: vectors } = await session.run(Object.fromEntries(inputs));
for (let i = 0; i < titles.length; i++) {
  const vector = vectors.data.slice(i * model.dimension, (i + 1) * model.dimension);
  console.log(JSON.stringify({ text: titles[i], vector: [...vector] }));
}
