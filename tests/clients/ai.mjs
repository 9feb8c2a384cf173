// As loops.py, for npm's `ai`: node --input-type=module - 'ai stream' URL < ai.mjs, in the folder with the package.
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';

const [client, URL] = process.argv.slice(2);
const KEY = 'unused';
const model = createOpenAICompatible({ name: 'here', baseURL: URL, apiKey: KEY })('default');
const called = [];
const weather = tool({
  description: 'Look up the weather in a city.',
  inputSchema: z.object({ city: z.string(), unit: z.enum(['c', 'f']) }),
  execute: async (input) => {
    called.push(['weather', input]);
    return `18 degrees in ${input.city}`;
  },
});
const ask = client === 'ai' ? generateText : streamText;
const result = await ask({
  model,
  prompt: 'What is the weather in Paris, in c?',
  tools: { weather },
  prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? 'required' : 'auto' }),
  stopWhen: stepCountIs(3),
  temperature: 0,
  maxOutputTokens: 60,
});
console.log(JSON.stringify({ called, answer: await result.text }));
