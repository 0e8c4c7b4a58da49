// The line protocol of the tests: commands in on stdin, answers and events out on stdout, one JSON object a line.
//
//   in:  {"id": 1, "do": "ping", ...arguments}
//   out: {"id": 1, "ok": result}  or  {"id": 1, "error": "Name: message"}  or  {"event": "...", ...}

import { createInterface } from 'node:readline'

export function tell (what) {
  process.stdout.write(JSON.stringify(what) + '\n')
}

export function describe (error) {
  return `${error.name}: ${error.message}`
}

// Serves commands until stdin closes, each by itself: a slow one holds up nothing.
export async function serve (commands) {
  for await (const line of createInterface({ input: process.stdin })) {
    const { id, do: name, ...rest } = JSON.parse(line)
    run(commands, name, rest).then(
      ok => tell({ id, ok: ok ?? null }),
      error => tell({ id, error: describe(error) })
    )
  }
}

async function run (commands, name, rest) {
  if (commands[name] == null) {
    throw new Error(`no command ${name}`)
  }
  return commands[name](rest)
}
