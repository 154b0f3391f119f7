package nodeapi

// Checkpoint asks the node to sign that the audit log has so many entries with this root. Proof is the consistency proof
// from the size that the node signed last, empty if that was 0 or is the same.
type Checkpoint struct {
	Size  uint64   `json:"size"`
	Root  []byte   `json:"root"`
	Proof [][]byte `json:"proof,omitempty"`
}

// Checkpointed is the newest checkpoint that the node signed; nothing was signed yet if Note is empty.
type Checkpointed struct {
	Size uint64 `json:"size"`
	Note []byte `json:"note,omitempty"` // signed, C2SP tlog-checkpoint
	Key  string `json:"key"`            // that verifies it, in the form of package note
}

// Chain asks for the links of the node's chain after a place.
type Chain struct {
	After uint64 `json:"after"`
}

// Links are links of the node's chain, in their order and not more than a thousand, and its signed word on where it
// stands.
type Links struct {
	Links [][]byte `json:"links"`
	Head  []byte   `json:"head"` // envelope
}
