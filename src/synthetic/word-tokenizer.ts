// A tokenizer with one token per word, as a tokenizer.json: words are separated at white space and never divided further.
import { refuse } from "../base/check.js";

export const unknown = "<unk>";
export const begin = "<s>";
export const end = "</s>";

const mark = "\u2581"; // stands for the space before a word

/** Ids: <unk> 0, <s> 1, </s> 2, then the words in their order. INVALID_ARGUMENT for words that are none or come twice. */
export function vocabularyOf(words: readonly string[]): readonly string[] {
  const seen = new Set<string>([unknown, begin, end]);
  words.forEach((word, i) => {
    if (word === "" || /\s/.test(word) || word.includes(mark))
      refuse(`words[${i}]`, "a word without white space", word);
    if (seen.has(word)) refuse(`words[${i}]`, "a word that is not there yet", word);
    seen.add(word);
  });
  return [...seen];
}

const special = (content: string, id: number) => ({
  ...{ id, content, single_word: false, lstrip: false, rstrip: false },
  ...{ normalized: false, special: true },
});

/** tokenizer.json of the words. A word that it does not know becomes one <unk> a character. */
export function tokenizerJson(words: readonly string[]): Record<string, unknown> {
  const vocabulary = vocabularyOf(words);
  const metaspace = { type: "Metaspace", replacement: mark, prepend_scheme: "always", split: false };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [special(unknown, 0), special(begin, 1), special(end, 2)],
    normalizer: null,
    pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "WhitespaceSplit" }, metaspace] },
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: begin, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [{ SpecialToken: { id: begin, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      special_tokens: { [begin]: { id: begin, ids: [1], tokens: [begin] } },
    },
    decoder: metaspace,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: unknown,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: true,
      vocab: Object.fromEntries(vocabulary.map((word, id) => [id < 3 ? word : mark + word, id])),
      merges: [],
    },
  };
}

/** tokenizer_config.json beside it. */
export const tokenizerConfig = {
  bos_token: begin,
  eos_token: end,
  unk_token: unknown,
  tokenizer_class: "LlamaTokenizer",
};

/** Turns as "USER: question ASSISTANT: answer</s>", for text models. */
export const chatTemplate =
  "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}{{ ' ASSISTANT: ' + message['content'] + eos_token }}" +
  "{% else %}{{ (' USER: ' if message['role'] == 'user' else ' ') + message['content'] }}{% endif %}{% endfor %}" +
  "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}";
