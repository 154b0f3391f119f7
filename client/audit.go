package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/bulwark-paas/bulwark"
)

// AuditEntry is what somebody did, as the server has it. What the log has, [Client.AuditEntries] tells.
type AuditEntry struct {
	Number   uint64            `json:"number"`
	Time     time.Time         `json:"time"`
	Project  bulwark.ProjectID `json:"project,omitempty"`
	Actor    bulwark.PersonID  `json:"actor,omitempty" doc:"empty for the platform itself, and for who is not known"`
	Key      string            `json:"key,omitempty"`
	From     string            `json:"from,omitempty" doc:"address"`
	Action   string            `json:"action"`
	Resource string            `json:"resource"`
	Outcome  string            `json:"outcome" doc:"asked, accepted, done, refused, failed, recorded"`
	Detail   string            `json:"detail,omitempty"`
	Document bulwark.Digest    `json:"document,omitempty" doc:"of what was signed"`
	Index    *uint64           `json:"index,omitempty" doc:"place in the log; none for a moment"`
}

// AuditCheckpoint is where the audit log stands.
type AuditCheckpoint struct {
	Note   []byte `json:"note" doc:"signed by the node, C2SP tlog-checkpoint"`
	Behind string `json:"behind,omitempty" doc:"said if the newest entries are not in it"`
	// Refused is why the node does not sign the log any more.
	Refused string `json:"refused,omitempty"`
}

// AuditProof proves that the log only grew.
type AuditProof struct {
	Hashes [][]byte `json:"hashes"`
}

// AuditChain is what the node accepted, and its signed word on where its chain stands.
type AuditChain struct {
	Links [][]byte `json:"links"`
	Head  []byte   `json:"head" doc:"DSSE envelope"`
}

// Witnessed is a checkpoint that somebody outside has signed for, too.
type Witnessed struct {
	Witness string `json:"witness" maxLength:"400" doc:"key that verifies the cosignature, NAME+HASH+KEY"`
	Note    []byte `json:"note" maxLength:"16384" doc:"the checkpoint with the node's signature and the witness's, C2SP tlog-cosignature"`
}

// Audit lists entries about an app, or all if it is empty, since a time; the newest first.
func (c *Client) Audit(ctx context.Context, app bulwark.AppName, since time.Time, most int) ([]AuditEntry, error) {
	path := "/audit"
	if app != "" {
		path = "/apps/" + esc(string(app)) + "/audit"
	}
	q := url.Values{"most": {strconv.Itoa(most)}}
	if !since.IsZero() {
		q.Set("since", since.UTC().Format(time.RFC3339))
	}
	return ask[[]AuditEntry](ctx, c, http.MethodGet, path+"?"+q.Encode(), nil)
}

// AuditCheckpoint returns where the log stands; with wait, when what was done before is in it.
func (c *Client) AuditCheckpoint(ctx context.Context, wait bool) (AuditCheckpoint, error) {
	return ask[AuditCheckpoint](ctx, c, http.MethodGet, "/audit/checkpoint?wait="+strconv.FormatBool(wait), nil)
}

// AuditConsistency returns the proof that the log of to entries holds that of from.
func (c *Client) AuditConsistency(ctx context.Context, from, to uint64) ([][]byte, error) {
	out, err := ask[AuditProof](ctx, c, http.MethodGet, "/audit/consistency?from="+decimal(from)+"&to="+decimal(to), nil)
	return out.Hashes, err
}

// AuditChain returns links of the node's chain after a place.
func (c *Client) AuditChain(ctx context.Context, after uint64) (AuditChain, error) {
	return ask[AuditChain](ctx, c, http.MethodGet, "/audit/chain?after="+decimal(after), nil)
}

// Witnessed returns where witnesses saw the log stand.
func (c *Client) Witnessed(ctx context.Context) ([]Witnessed, error) {
	return ask[[]Witnessed](ctx, c, http.MethodGet, "/audit/witnessed", nil)
}

// Witness has the server keep what a witness signed.
func (c *Client) Witness(ctx context.Context, w Witnessed) error {
	return c.call(ctx, http.MethodPost, "/audit/witnessed", w, nil)
}

// AuditTile returns hashes of the log (C2SP tlog-tiles): width of them, 0 for a full tile.
func (c *Client) AuditTile(ctx context.Context, level, index uint64, width uint8) ([]byte, error) {
	return c.octets(ctx, "/audit/tiles/"+decimal(level)+"/"+decimal(index)+"?width="+decimal(uint64(width)))
}

// AuditEntries returns a bundle of entries as the log has them (C2SP tlog-tiles): width of them, 0 for a full one.
func (c *Client) AuditEntries(ctx context.Context, index uint64, width uint8) ([]byte, error) {
	return c.octets(ctx, "/audit/entries/"+decimal(index)+"?width="+decimal(uint64(width)))
}

// maxOctets bounds a file of the log: 256 entries of at most 64 KiB.
const maxOctets = 256 * (1<<16 + 2)

func (c *Client) octets(ctx context.Context, path string) ([]byte, error) {
	res, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(io.LimitReader(res.Body, maxOctets))
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }
