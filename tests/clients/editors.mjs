// People who edit a document through the official Yjs server, which keeps it in Weir.
import { YjsProvider } from "@durable-streams/y-durable-streams"
import * as Y from "yjs"

/** Somebody who has the document open. Calls `complain` with what goes wrong. */
export class Editor {
  constructor(baseUrl, docId, complain) {
    const doc = new Y.Doc()
    this.text = doc.getText("text")
    this.provider = new YjsProvider({ doc, baseUrl, docId })
    this.provider.on("error", (error) => complain(`${docId}: ${error}`))
  }

  write(line) {
    this.text.insert(this.text.length, line)
  }
}
