// Scenarios J1 to J9 with the official JavaScript client.
//
//     node official_javascript.mjs URL DIGEST REGISTRY        (with ollama in node_modules)
//
// The server has the model p, and may ask the registry. Every check is an assertion.

import assert from 'node:assert/strict'
import { Ollama } from 'ollama'

const host = process.argv[2]
const client = new Ollama({ host })

async function refused(promise, text) {
  await assert.rejects(promise, (error) => String(error.message ?? error).includes(text))
}

const scenarios = {
  async j1_version() {
    assert.match((await client.version()).version, /^\d+\.\d+\.\d+$/)
  },
  async j2_list() {
    const { models } = await client.list()
    assert.ok(models.some((model) => model.name === 'p:latest'))
  },
  async j3_create() {
    const answer = await client.create({ model: 'j', from: 'p', system: 'You are J.' })
    assert.equal(answer.status, 'success')
  },
  async j4_stream() {
    const lines = []
    for await (const line of await client.create({ model: 'j4', from: 'p', stream: true })) {
      lines.push(line.status)
    }
    assert.equal(lines.at(-1), 'success')
    assert.ok(lines.includes('writing manifest'))
  },
  async j5_errors() {
    const files = { 'a.gguf': process.argv[3] } // a blob that is no GGUF
    const stream = await client.create({ model: 'bad', files, stream: true })
    await refused((async () => { for await (const _ of stream); })(), 'GGUF')
    await refused(client.create({ model: 'bad', from: 'nope' }), "model 'nope' not found")
  },
  async j6_show_copy_delete() {
    assert.equal((await client.show({ model: 'j' })).system, 'You are J.')
    await client.copy({ source: 'j', destination: 'j-copy' })
    await client.delete({ model: 'j-copy' })
    await refused(client.show({ model: 'j-copy' }), 'not found')
    await refused(client.delete({ model: 'j-copy' }), 'not found')
  },
  async j7_pull() {
    const model = `${process.argv[4]}/lib/j:v1`
    await client.copy({ source: 'j', destination: model })
    for (const action of ['push', 'pull']) {
      const lines = []
      const options = { model, insecure: true, stream: true }
      for await (const line of await client[action](options)) lines.push(line)
      assert.equal(lines.at(-1).status, 'success')
      assert.ok(lines.some((line) => line.digest && line.total > 0))
      assert.equal((await client[action]({ model })).status, 'success')
    }
    const absent = `${process.argv[4]}/lib/none:v1`
    await refused(client.pull({ model: absent }), 'file does not exist')
    const stream = await client.pull({ model: absent, stream: true })
    await refused((async () => { for await (const _ of stream); })(), 'file does not exist')
    await refused(client.pull({ model: '127.0.0.1:9/a/b', insecure: true }), '--registry')
    const other = await new Ollama({ host }).pull({ model, stream: true })
    other.abort()
    await assert.rejects((async () => { for await (const _ of other); })())
  },
  async j8_change_system() {
    await client.create({ model: 'j', from: 'j', system: 'You are K.' })
    assert.equal((await client.show({ model: 'j' })).system, 'You are K.')
    assert.deepEqual((await client.ps()).models, [])
  },
  async j9_abort() {
    const other = new Ollama({ host })
    const license = 'x'.repeat(1 << 20)
    const stream = await other.create({ model: 'aborted', from: 'p', license, stream: true })
    stream.abort()
    await assert.rejects((async () => { for await (const _ of stream); })())
    const { models } = await client.list()
    const found = models.find((model) => model.name === 'aborted:latest')
    if (found) assert.equal((await client.show({ model: 'aborted' })).license.length, 1 << 20)
  },
}

for (const [name, scenario] of Object.entries(scenarios)) {
  await scenario()
  console.log(name, 'ok')
}
