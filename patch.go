package bulwark

import (
	"fmt"
	"strings"
	"time"
)

// PatchName is the name of a virtual patch: a DNS label of at most 40 characters, or the name of a published hole, such as CVE-2026-1234.
type PatchName string

// ParsePatchName checks s. Capitals are made small.
func ParsePatchName(s string) (PatchName, error) {
	s = strings.ToLower(s)
	return PatchName(s), label("patch's name", s, 40)
}

// UnmarshalText implements [encoding.TextUnmarshaler] by ParsePatchName.
func (n *PatchName) UnmarshalText(b []byte) error { return parseInto(n, b, ParsePatchName) }

// Patch is a virtual patch: rules of the web application firewall over all apps, for as long as the apps themselves are not mended.
type Patch struct {
	Name   PatchName `json:"name"`
	Rules  string    `json:"rules"`             // SecLang
	DryRun bool      `json:"dry_run,omitempty"` // what meets it is counted, and passes
	Until  time.Time `json:"until"`
}

// Bounds of patches.
const (
	MaxPatch     = 64 << 10             // bytes of one patch's rules
	MaxPatches   = 50                   // at a time
	MaxPatchLife = 366 * 24 * time.Hour // from when it is taken
)

// Check says what is wrong with a patch but for its rules, which only the firewall understands.
func (p Patch) Check() error {
	if p.Name == "" {
		return Invalid("The patch has no name.", "Name it, for example after the hole: cve-2026-1234.")
	}
	if strings.TrimSpace(p.Rules) == "" {
		return Invalid("The patch has no rules.", "Give a file of rules in SecLang.")
	}
	if len(p.Rules) > MaxPatch {
		return Fail(KindTooLarge, fmt.Sprintf("The rules of a patch take at most %d KiB.", MaxPatch>>10), "Make several patches of it.", nil)
	}
	if p.Until.IsZero() {
		return Invalid("The patch has no end.", "Say until when it is needed; it can be made again.")
	}
	return nil
}

// Digest tells versions of a patch apart.
func (p Patch) Digest() Digest {
	return Sum([]byte(fmt.Sprintf("%s\n%t\n%d\n%s", p.Name, p.DryRun, p.Until.Unix(), p.Rules)))
}

// PatchStats is what the edge says of a patch.
type PatchStats struct {
	Name   PatchName `json:"name"`
	Digest Digest    `json:"digest"`          // of the patch, see Patch.Digest
	Live   bool      `json:"live"`            // it is asked about every request
	Error  string    `json:"error,omitempty"` // why it is not live
	Hits   int       `json:"hits"`            // since the edge has had it
	Last   time.Time `json:"last,omitzero"`   // when a request met it last
}

// The refusals of patches.
const (
	RefusedPatch Refusal = "patch"       // it meets a virtual patch
	NotedPatch   Refusal = "patch-noted" // it meets one that is tried out
)
