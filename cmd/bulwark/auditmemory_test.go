package main

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/bulwark-paas/bulwark/internal/audit/inspect"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// What is remembered of a log only grows, also if two commands remember at a time, and comes back as it was.
func TestLogMemory(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	signer, vkey, err := statement.LogSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	node := statement.NewKey(key.Public().(ed25519.PublicKey))
	keys := inspect.Keys{Node: node, Log: vkey}
	checkpoint := func(size uint64) string {
		b, err := note.Sign(&note.Note{Text: statement.CheckpointText(signer.Name(), size, make([]byte, 32))}, signer)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	st := &store{dir: t.TempDir()}
	memory := func() *logMemory {
		t.Helper()
		m, err := st.memory(node.Fingerprint)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	save := func(m *logMemory) {
		t.Helper()
		if err := m.save(keys); err != nil {
			t.Fatal(err)
		}
	}
	first := memory()
	first.Key, first.Checkpoint = vkey, checkpoint(7)
	save(first)
	second := memory()
	if second.Checkpoint != first.Checkpoint || second.Key != vkey {
		t.Errorf("it remembers %+v", second)
	}
	second.Checkpoint = checkpoint(9)
	second.Checked = inspect.State{Size: 9, Chain: statement.ChainStart(node.Fingerprint)}
	save(second)
	first.Checkpoint = checkpoint(8) // by a command that began before
	save(first)
	if m := memory(); m.Checkpoint != second.Checkpoint || m.Checked.Size != 9 {
		t.Errorf("it forgot what another command saw: %+v", m)
	}
	if err := os.WriteFile(first.path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := st.memory(node.Fingerprint); err == nil {
		t.Error("what cannot be read is nothing to remember")
	}
}
