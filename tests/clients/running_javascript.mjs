// The official client running a model: node running_javascript.mjs URL
// The server has the model chat, which answers. Every check is an assertion.
import assert from 'node:assert/strict'
import { Ollama } from 'ollama'

const client = new Ollama({ host: process.argv[2] })
const options = { num_predict: 12, temperature: 0, num_ctx: 512 }
const messages = [{ role: 'user', content: 'What is the capital of France?' }]

const whole = await client.chat({ model: 'chat', messages, options })
assert.match(whole.message.content, /Paris/)
let text = ''
for await (const part of await client.chat({ model: 'chat', messages, options, stream: true })) {
  text += part.message.content
}
assert.equal(text, whole.message.content)
const { embeddings } = await client.embed({ model: 'chat', input: ['a', 'b'], options })
assert.equal(embeddings.length, 2)
const long = { model: 'chat', prompt: 'Count to a million', stream: true, options: { num_ctx: 512, num_predict: 4000 } }
const stream = await client.generate(long)
await assert.rejects((async () => { for await (const _ of stream) stream.abort() })())
assert.equal((await client.ps()).models[0].name, 'chat:latest')
await client.generate({ model: 'chat', prompt: '', keep_alive: 0 })
console.log('ok')
