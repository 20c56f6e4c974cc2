// One use of OpenAI's Node client against a server: `node openai_client.mjs BASE_URL USE`.
// Prints what came of it as JSON; the test judges it.
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const [baseURL, use] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const model = "fake";
const messages = [{ role: "user", content: "Hi" }];
const Forecast = z.object({
  city: z.string().max(8),
  days: z.array(z.int().min(-99).max(99)).max(3),
  sky: z.enum(["clear", "dull"]).nullable(),
});
const look = zodFunction({ name: "Look", parameters: z.object({ city: z.string().max(8) }) });

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    const { status, code, param, requestID } = error;
    return { kind: error.constructor.name, status, code, param, hasId: Boolean(requestID) };
  }
  return null;
}

const uses = {
  async stream() {
    let said = "";
    const options = { include_usage: true };
    const stream = await client.chat.completions.create({
      model, messages, stream: true, stream_options: options,
    });
    let usage = null;
    for await (const chunk of stream) {
      said += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    return { said, usage };
  },

  async leave() {
    const stream = await client.completions.create({ model, prompt: "Hi", stream: true });
    for await (const chunk of stream) return chunk.choices[0].text; // leaving the loop aborts
  },

  async parse() {
    const chat = await client.chat.completions.parse({
      model, messages, response_format: zodResponseFormat(Forecast, "forecast"),
    });
    const response = await client.responses.parse({
      model, input: "Hi", text: { format: zodTextFormat(Forecast, "forecast") },
    });
    return [chat.choices[0].message.parsed, response.output_parsed];
  },

  async required() {
    const whole = await client.chat.completions.parse({
      model, messages, tools: [look], tool_choice: "required", parallel_tool_calls: false,
    });
    return whole.choices[0].message.tool_calls[0].function.parsed_arguments;
  },

  async tools() {
    const whole = await client.chat.completions.parse({ model, messages, tools: [look] });
    const { message, finish_reason } = whole.choices[0];
    const stream = client.chat.completions.stream({ model, messages, tools: [look] });
    const streamed = (await stream.finalChatCompletion()).choices[0].message;
    const results = message.tool_calls.map(({ id }) => (
      { role: "tool", tool_call_id: id, content: "wet" }
    ));
    await client.chat.completions.create({
      model, messages: [...messages, message, ...results], tools: [look],
    });
    const parsed = [message, streamed].map((one) => (
      one.tool_calls.map((call) => call.function.parsed_arguments)
    ));
    return { finish_reason, parsed };
  },

  async responses() {
    const kinds = [];
    const stream = client.responses.stream({ model, input: "Hi" });
    for await (const event of stream) kinds.push(event.type);
    const final = await stream.finalResponse();
    const kept = await client.responses.retrieve(final.id);
    return { first: kinds[0], last: kinds.at(-1), texts: [final.output_text, kept.output_text] };
  },

  async errors() {
    const ask = (fields) => failure(client.chat.completions.create({ model, messages, ...fields }));
    return [await ask({ model: "gpt-9" }), await ask({ temperature: 9 })];
  },

  async midstream() {
    const stream = client.chat.completions.stream({ model, messages });
    return failure(stream.finalChatCompletion());
  },

  async retries() {
    const patient = client.withOptions({ maxRetries: 2 });
    return (await patient.completions.create({ model, prompt: "Hi" })).choices[0].text;
  },

  async hopeless() {
    const patient = client.withOptions({ maxRetries: 2 });
    return failure(patient.completions.create({ model, prompt: "Hi", timeout: 0.05 }));
  },

  async embeddings() {
    const floats = await client.embeddings.create({ model, input: ["Hi", "you"] });
    return floats.data.map((one) => one.embedding);
  },
};

console.log(JSON.stringify(await uses[use]()));
