// As loops.py, for npm's clients: node --input-type=module - 'ai messages stream' URL < loops.mjs, where they are.
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, stepCountIs, streamText, tool } from 'ai';
import { Ollama } from 'ollama';
import { z } from 'zod';

const [asked, URL] = process.argv.slice(2);
const [client, ...way] = asked.split(' ');
const HOST = URL.replace(/\/v1$/, '');
const KEY = 'unused';
const PROMPT = 'What is the weather in Paris, in c?';
const inAStream = way.includes('stream');
const called = [];
const parameters = z.object({ city: z.string(), unit: z.enum(['c', 'f']) });
const description = 'Look up the weather in a city.';

async function weather(input) {
  called.push(['weather', input]);
  return `18 degrees in ${input.city}`;
}

const models = {
  chat: () => createOpenAICompatible({ name: 'here', baseURL: URL, apiKey: KEY })('default'),
  responses: () => createOpenAI({ baseURL: URL, apiKey: KEY })('default'),
  messages: () => createAnthropic({ baseURL: URL, apiKey: KEY })('default'),
};

async function ai() {
  const model = models[way.find((word) => word in models) ?? 'chat']();
  const ask = inAStream ? streamText : generateText;
  const result = await ask({
    model,
    prompt: PROMPT,
    tools: { weather: tool({ description, inputSchema: parameters, execute: weather }) },
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? 'required' : 'auto' }),
    stopWhen: stepCountIs(3),
    temperature: 0,
    maxOutputTokens: 60,
    providerOptions: { openai: { store: false } }, // nothing is stored here, and it would name what it takes for stored
  });
  return result.text;
}

async function ollamaJs() {
  const client = new Ollama({ host: HOST, headers: { Authorization: `Bearer ${KEY}` } });
  const tools = [{ type: 'function', function: { name: 'weather', description, parameters: z.toJSONSchema(parameters) } }];
  const messages = [{ role: 'user', content: PROMPT }];
  const message = await chat(client, { model: 'default', messages, tools });
  messages.push(message);
  for (const { function: { name, arguments: given } } of message.tool_calls) {
    messages.push({ role: 'tool', tool_name: name, content: await weather(given) });
  }
  return (await chat(client, { model: 'default', messages, tools })).content;
}

async function chat(client, fields) {
  if (!inAStream) return (await client.chat(fields)).message;
  const whole = { role: 'assistant', content: '', tool_calls: [] };
  for await (const { message } of await client.chat({ ...fields, stream: true })) {
    whole.content += message.content;
    whole.tool_calls.push(...(message.tool_calls ?? []));
  }
  return whole;
}

const answer = await { ai, ollama_js: ollamaJs }[client]();
console.log(JSON.stringify({ called, answer }));
