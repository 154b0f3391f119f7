package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // the ledger is read as the file that it is

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/install"
	"github.com/bulwark-paas/bulwark/internal/node/nodeapi"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// hostile is somebody who owns the server: who has all that ever passed it, speaks with node and edge in its place, and has a friend among
// the people of another organisation, who signs for them what they like.
type hostile struct {
	ts           *testscript.TestScript
	on           *installation
	node, edge   *http.Client
	ledger       *sql.DB
	victim, evil bulwark.AppID
	name         string // the victim's
	friend       ed25519.PrivateKey
	stranger     ed25519.PrivateKey
	person       ed25519.PrivateKey // of who trusts the server with a deploy

	tried int
	got   []string
}

// hostileServer stops the server and plays it: "hostileserver VICTIM EVIL FRIEND" names an app, another of another organisation, and the
// persona who is an owner of that. None of what is tried may be taken, or change what the node has.
func hostileServer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: hostileserver VICTIM EVIL FRIEND")
	}
	s := of(ts)
	pid, err := s.on.pid("server")
	ts.Check(err)
	uid := s.on.inst.User(install.Server)
	h := &hostile{ts: ts, on: s.on, name: args[0], node: asUser(uid, s.on.inst.Socket(install.NodeVerbs)), edge: asUser(uid, s.on.inst.Socket(install.EdgeControl))}
	h.ledger, err = sql.Open("sqlite", "file:"+filepath.Join(s.on.inst.NodeDir(), "ledger.db")+"?mode=ro&_pragma=busy_timeout(10000)")
	ts.Check(err)
	defer h.ledger.Close()
	h.victim, h.evil = h.app(args[0]), h.app(args[1])
	h.person, h.friend = deviceKey(ts, ts.Getenv("PERSONA")), deviceKey(ts, args[2])
	_, h.stranger, err = ed25519.GenerateKey(rand.Reader)
	ts.Check(err)

	ts.Check(syscall.Kill(pid, syscall.SIGSTOP)) // the real one ends nothing that is started here
	defer syscall.Kill(pid, syscall.SIGKILL)     // and what it was in the middle of is over
	h.build()
	was := h.digest()
	h.documents()
	h.starts()
	h.log()
	h.verbs()
	h.garbage()
	for table, sum := range h.digest() {
		if was[table] != sum {
			h.got = append(h.got, "the node's table "+table+" is another")
		}
	}
	h.routes()
	ts.Logf("%d attempts, %d taken", h.tried, len(h.got))
	if h.tried < 500 || len(h.got) > 0 {
		ts.Fatalf("of %d attempts these were taken:\n%s", h.tried, strings.Join(h.got, "\n"))
	}
}

// asUser is a client of a unix socket that the kernel takes for a user.
func asUser(uid uint32, path string) *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: func(context.Context, string, string) (c net.Conn, err error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
				err = errno
				return
			}
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
				err = errno
				return
			}
			c, err = net.Dial("unix", path)
		}()
		<-done
		return c, err
	}}}
}

// deviceKey is what a persona signs with.
func deviceKey(ts *testscript.TestScript, who string) ed25519.PrivateKey {
	files, err := filepath.Glob(filepath.Join(of(ts).work, "home", who, ".config", "bulwark", "device*.key"))
	ts.Check(err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		ts.Check(err)
		block, _ := pem.Decode(b)
		if block == nil {
			continue
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		ts.Check(err)
		if ed, ok := key.(ed25519.PrivateKey); ok {
			return ed
		}
	}
	ts.Fatalf("%s has no device key", who)
	return nil
}

func (h *hostile) app(name string) (id bulwark.AppID) {
	h.ts.Check(h.ledger.QueryRow(`SELECT id FROM app WHERE name = ? AND destroyed = 0`, name).Scan(&id))
	return id
}

// ask posts a verb and returns the node's refusal, or nil if it did what was asked.
func (h *hostile) ask(verb string, in, out any) error {
	b, err := json.Marshal(in)
	h.ts.Check(err)
	return h.post(verb, b, out)
}

func (h *hostile) post(verb string, body []byte, out any) error {
	resp, err := h.node.Post("http://node/v1/"+verb, "application/json", bytes.NewReader(body))
	if err != nil {
		h.ts.Fatalf("the node did not answer %s: %v", verb, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK && out != nil {
		return json.NewDecoder(resp.Body).Decode(out)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil || resp.StatusCode == http.StatusOK {
		return err
	}
	var e bulwark.Error
	if json.Unmarshal(b, &e) != nil || e.Kind == "" {
		return fmt.Errorf("%s: %s", resp.Status, b)
	}
	if e.Kind == bulwark.KindInternal || e.Kind == bulwark.KindUnavailable {
		h.got = append(h.got, fmt.Sprintf("%s was not refused, it failed: %v", verb, &e))
	}
	return &e
}

// refused notes an attempt that the node must not do.
func (h *hostile) refused(what string, err error) {
	h.tried++
	if err == nil {
		h.got = append(h.got, what)
	}
}

// digest names what each table of the ledger holds.
func (h *hostile) digest() map[string]string {
	out := map[string]string{}
	rows, err := h.ledger.Query(`SELECT name FROM sqlite_master WHERE type = 'table'`)
	h.ts.Check(err)
	defer rows.Close()
	var tables []string
	for rows.Next() {
		var name string
		h.ts.Check(rows.Scan(&name))
		tables = append(tables, name)
	}
	h.ts.Check(rows.Err())
	for _, t := range tables {
		sum := sha256.New()
		rows, err := h.ledger.Query(`SELECT * FROM ` + t)
		h.ts.Check(err)
		columns, err := rows.Columns()
		h.ts.Check(err)
		for rows.Next() {
			values := make([]any, len(columns))
			for i := range values {
				values[i] = new(any)
			}
			h.ts.Check(rows.Scan(values...))
			for _, v := range values {
				fmt.Fprintf(sum, "%v|", *v.(*any))
			}
		}
		h.ts.Check(errors.Join(rows.Err(), rows.Close()))
		out[t] = hex.EncodeToString(sum.Sum(nil))
	}
	return out
}

// kept is a document that passed the server once.
type kept struct {
	kind statement.Kind
	app  bulwark.AppID
	body []byte
}

func (h *hostile) kept() []kept {
	rows, err := h.ledger.Query(`SELECT kind, app, body FROM document ORDER BY seq`)
	h.ts.Check(err)
	defer rows.Close()
	var out []kept
	for rows.Next() {
		var k kept
		h.ts.Check(rows.Scan(&k.kind, &k.app, &k.body))
		out = append(out, k)
	}
	h.ts.Check(rows.Err())
	return out
}

// documents sends what people signed once more, altered, under other signatures, and to verbs that it is not meant for.
func (h *hostile) documents() {
	kinds := map[statement.Kind]bool{}
	for _, k := range h.kept() {
		if strings.HasPrefix(string(k.kind), "node.") || len(k.body) == 0 {
			continue // what the node noted by itself
		}
		kinds[k.kind] = true
		// Whoever brings a document again hears what became of it, and nothing comes of it: the ledger is compared. What is answered
		// with more than that is answered once.
		for _, verb := range []string{"reveal", "run"} {
			h.refused(string(k.kind)+" once more, as "+verb, h.ask(verb, nodeapi.Document{Envelope: k.body}, nil))
		}
		for _, verb := range []string{"submit", "enroll"} {
			_ = h.ask(verb, nodeapi.Document{Envelope: k.body}, nil)
		}
		_ = h.ask("push", nodeapi.Push{App: h.evil, Certificate: k.body}, nil)
		for i := 0; i < len(k.body); i += 1 + len(k.body)/7 {
			b := bytes.Clone(k.body)
			b[i] ^= 1
			h.everywhere(fmt.Sprintf("%s with byte %d flipped", k.kind, i), b)
		}
		for what, b := range h.altered(k) {
			if bytes.Equal(b, k.body) {
				continue // it was signed by that very key
			}
			h.everywhere(string(k.kind)+" "+what, b)
		}
	}
	for _, want := range []statement.Kind{statement.KindEnroll, statement.KindAppCreate, statement.KindDeploy, statement.KindConfigSet, statement.KindConfigReveal, statement.KindRun,
		statement.KindPush, statement.KindMemberInvite, statement.KindDomainAdd, statement.KindEgressAllow, statement.KindTokenCreate} {
		if !kinds[want] {
			h.ts.Fatalf("no document of the kind %s ever passed: the story must have one", want)
		}
	}
}

// everywhere brings a document to each verb that takes one.
func (h *hostile) everywhere(what string, b []byte) {
	for _, verb := range []string{"submit", "enroll", "reveal", "run"} {
		h.refused(what+", as "+verb, h.ask(verb, nodeapi.Document{Envelope: b}, nil))
	}
	for _, app := range []bulwark.AppID{h.victim, h.evil} {
		h.refused(what+", as a push", h.ask("push", nodeapi.Push{App: app, Certificate: b}, nil))
	}
}

// envelope is DSSE's.
type envelope struct {
	PayloadType string              `json:"payloadType"`
	Payload     string              `json:"payload"`
	Signatures  []map[string]string `json:"signatures"`
}

// altered are the forgeries of a statement that can be made of it.
func (h *hostile) altered(k kept) map[string][]byte {
	out := map[string][]byte{}
	var e envelope
	if json.Unmarshal(k.body, &e) != nil {
		return out // a push certificate
	}
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	h.ts.Check(err)
	var fields map[string]json.RawMessage
	h.ts.Check(json.Unmarshal(payload, &fields))
	enveloped := func(change func(*envelope)) []byte {
		c := e
		c.Signatures = []map[string]string{maps.Clone(e.Signatures[0])}
		change(&c)
		b, err := json.Marshal(c)
		h.ts.Check(err)
		return b
	}
	out["without a signature"] = enveloped(func(c *envelope) { c.Signatures = nil })
	out["of another type"] = enveloped(func(c *envelope) { c.PayloadType = statement.ReleasePayloadType })
	out["in the name of another key"] = enveloped(func(c *envelope) {
		c.Signatures[0]["keyid"] = statement.NewKey(h.friend.Public().(ed25519.PublicKey)).Fingerprint
	})
	for name := range fields {
		changed := maps.Clone(fields)
		delete(changed, name)
		b, err := json.Marshal(changed)
		h.ts.Check(err)
		out["without "+name+" under the old signature"] = enveloped(func(c *envelope) { c.Payload = base64.StdEncoding.EncodeToString(b) })
	}
	var s statement.Statement
	h.ts.Check(json.Unmarshal(payload, &s))
	sign := func(what string, key ed25519.PrivateKey, change func(*statement.Statement)) {
		fresh, err := statement.New(s.Node, s.Kind, s.App, s.Body, time.Now())
		h.ts.Check(err)
		change(fresh)
		b, err := statement.Seal(statement.PayloadType, fresh, key)
		h.ts.Check(err)
		out[what] = b
	}
	sign("signed by nobody who is known", h.stranger, func(*statement.Statement) {})
	sign("signed by nobody who is known, about the other app", h.stranger, func(s *statement.Statement) { s.App = h.evil })
	switch {
	case k.app == h.victim:
		sign("signed by a friend elsewhere", h.friend, func(*statement.Statement) {})
		sign("signed by a friend elsewhere, by a clock of tomorrow", h.friend, func(s *statement.Statement) { s.Time = s.Time.Add(48 * time.Hour) })
		if s.Kind == statement.KindConfigSet || s.Kind == statement.KindBuildSecret { // whose ciphertexts are another app's
			sign("with its ciphertexts, for the friend's own app", h.friend, func(s *statement.Statement) { s.App = h.evil })
		}
	case s.Kind == statement.KindMemberInvite || s.Kind == statement.KindMemberUninvite || s.Kind == statement.KindMemberSet || s.Kind == statement.KindMemberRemove || s.Kind == statement.KindEnroll:
		if !bytes.Contains(s.Body, []byte(h.org(h.evil))) {
			sign("signed by a friend elsewhere", h.friend, func(*statement.Statement) {})
		}
	}
	return out
}

func (h *hostile) org(app bulwark.AppID) (id string) {
	h.ts.Check(h.ledger.QueryRow(`SELECT p.org FROM app a JOIN project p ON p.id = a.project WHERE a.id = ?`, app).Scan(&id))
	return id
}

// released is a release of an app's, the newest or the one before.
func (h *hostile) released(app bulwark.AppID, back uint64) nodeapi.Released {
	var p nodeapi.Promoted
	h.ts.Check(h.ask("promoted", nodeapi.Promoted{App: app}, &p))
	var r nodeapi.Released
	h.ts.Check(h.ask("bundle", nodeapi.Promote{App: app, Generation: p.Generation - back}, &r))
	return r
}

// start asks for an instance of a bundle and ends it if there is one.
func (h *hostile) start(more map[string]any, b statement.Bundle, process bulwark.ProcessType) error {
	id := bulwark.NewInstanceID()
	in := map[string]any{"bundle": b, "instance": id, "process": process, "index": 1}
	maps.Copy(in, more)
	err := h.ask("start", in, nil)
	if err == nil {
		_ = h.ask("stop", nodeapi.Stop{Instance: id, Grace: bulwark.Duration(time.Second)}, nil)
	}
	return err
}

// starts asks for instances of what nobody signed.
func (h *hostile) starts() {
	good, other, old := h.released(h.victim, 0), h.released(h.evil, 0), h.released(h.victim, 1)
	if err := h.start(nil, good.Bundle, bulwark.ProcessWeb); err != nil {
		h.ts.Fatalf("what was released does not start, so that a refusal says nothing: %v", err)
	}
	for field, v := range map[string]any{"args": []string{"/bin/sh"}, "mounts": []map[string]string{{"source": "/", "target": "/host"}}, "privileged": true, "uid": 0,
		"rootfs": "/", "env": []string{"A=b"}, "network": "host", "capabilities": []string{"CAP_SYS_ADMIN"}, "path": "/etc/shadow"} {
		h.refused("start with "+field, h.start(map[string]any{field: v}, good.Bundle, bulwark.ProcessWeb))
	}
	for _, p := range []bulwark.ProcessType{"../web", "release", "nothing", ""} {
		h.refused(fmt.Sprintf("start the process %q", p), h.start(nil, good.Bundle, p))
	}
	h.refused("start a process as a job", h.start(map[string]any{"job": true}, good.Bundle, bulwark.ProcessWeb))
	h.refused("start the release before", h.start(nil, old.Bundle, bulwark.ProcessWeb))
	h.refused("promote the release before", h.ask("promote", nodeapi.Promote{App: h.victim, Generation: old.Release.Generation}, nil))
	h.refused("promote a release that there is not", h.ask("promote", nodeapi.Promote{App: h.victim, Generation: good.Release.Generation + 1}, nil))
	g, o := good.Bundle, other.Bundle
	swaps := map[string]statement.Bundle{
		"the friend's release": {Release: o.Release, Provenance: g.Provenance, Cause: g.Cause, Origin: g.Origin},
		"the friend's image":   {Release: g.Release, Provenance: o.Provenance, Cause: g.Cause, Origin: g.Origin},
		"the friend's word":    {Release: g.Release, Provenance: g.Provenance, Cause: o.Cause, Origin: o.Origin},
		"the old word":         {Release: g.Release, Provenance: g.Provenance, Cause: old.Bundle.Cause, Origin: old.Bundle.Origin},
		"nothing but itself":   {Release: g.Release},
	}
	for what, b := range swaps {
		h.refused("start a release with "+what, h.start(nil, b, bulwark.ProcessWeb))
	}
	var e envelope
	h.ts.Check(json.Unmarshal(g.Release, &e))
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	h.ts.Check(err)
	var release map[string]any
	h.ts.Check(json.Unmarshal(payload, &release))
	for _, path := range leaves(release, nil) {
		changed := replacedAt(release, path)
		b, err := json.Marshal(changed)
		h.ts.Check(err)
		c := e
		c.Payload = base64.StdEncoding.EncodeToString(b)
		forged := g
		forged.Release, err = json.Marshal(c)
		h.ts.Check(err)
		h.refused(fmt.Sprintf("start a release with another %s", strings.Join(path, ".")), h.start(nil, forged, bulwark.ProcessWeb))
		for who, key := range map[string]ed25519.PrivateKey{"a person's": h.person, "a stranger's": h.stranger} {
			forged.Release, err = statement.Seal(statement.ReleasePayloadType, changed, key)
			h.ts.Check(err)
			h.refused(fmt.Sprintf("start a release with another %s and %s signature", strings.Join(path, "."), who), h.start(nil, forged, bulwark.ProcessWeb))
		}
	}
}

// leaves are the ways to all values of a JSON object.
func leaves(v any, at []string) [][]string {
	switch v := v.(type) {
	case map[string]any:
		var out [][]string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out = append(out, leaves(v[k], append(slices.Clone(at), k))...)
		}
		return out
	default:
		return [][]string{at}
	}
}

// replacedAt is a copy with another value at a place.
func replacedAt(v any, path []string) any {
	if len(path) > 0 {
		c := maps.Clone(v.(map[string]any))
		c[path[0]] = replacedAt(c[path[0]], path[1:])
		return c
	}
	switch v := v.(type) {
	case string:
		return v + "x"
	case float64:
		return v + 1
	case bool:
		return !v
	case []any:
		return append(slices.Clone(v), "x")
	default:
		return "x"
	}
}

// build sends another tree than the one that a person signed for.
func (h *hostile) build() {
	var node string
	var info nodeapi.Info
	h.ts.Check(h.ask("info", nodeapi.AskInfo{}, &info))
	for _, k := range h.kept() {
		var e envelope
		var s statement.Statement
		if json.Unmarshal(k.body, &e) != nil || len(e.Signatures) == 0 {
			continue
		}
		payload, err := base64.StdEncoding.DecodeString(e.Payload)
		h.ts.Check(err)
		h.ts.Check(json.Unmarshal(payload, &s))
		node = s.Node
	}
	s, err := statement.New(node, statement.KindDeploy, h.victim, statement.Deploy{Tree: statement.TreeDigest("tree1:" + strings.Repeat("0", 64))}, time.Now())
	h.ts.Check(err)
	b, err := statement.Seal(statement.PayloadType, s, h.person)
	h.ts.Check(err)
	var r nodeapi.Receipt
	h.ts.Check(h.ask("submit", nodeapi.Document{Envelope: b}, &r))
	h.tree("another tree than the signed one", r.Digest)
	h.refused("release what was not built", h.ask("release", nodeapi.Release{Cause: r.Digest}, nil))
	for _, k := range h.kept() {
		if k.kind == statement.KindConfigReveal || k.kind == statement.KindAppCreate {
			h.tree("a tree for a statement that is no deploy", bulwark.Sum(k.body))
		}
	}
}

func (h *hostile) tree(what string, cause bulwark.Digest) {
	id := bulwark.NewBuildID()
	archive, err := os.ReadFile(h.ts.MkAbs("evil.tar"))
	h.ts.Check(err)
	req, err := http.NewRequest(http.MethodPut, fmt.Sprintf("http://node/v1/source?build=%s&cause=%s", id, cause), bytes.NewReader(archive))
	h.ts.Check(err)
	resp, err := h.node.Do(req)
	h.ts.Check(err)
	resp.Body.Close()
	b, err := json.Marshal(nodeapi.Build{Build: id, Cause: cause})
	h.ts.Check(err)
	resp, err = h.node.Post("http://node/v1/build", "application/json", bytes.NewReader(b))
	h.ts.Check(err)
	defer resp.Body.Close()
	events, err := io.ReadAll(resp.Body)
	h.ts.Check(err)
	h.tried++
	if bytes.Contains(events, []byte(`"done"`)) || !bytes.Contains(events, []byte(`"kind"`)) {
		h.got = append(h.got, fmt.Sprintf("%s: %s", what, events))
	}
}

// log asks for signatures over another past.
func (h *hostile) log() {
	var now nodeapi.Checkpointed
	h.ts.Check(h.ask("checkpointed", struct{}{}, &now))
	if now.Size == 0 {
		h.ts.Fatalf("there is no audit log yet")
	}
	root := make([]byte, 32)
	for _, size := range []uint64{0, 1, now.Size - 1, now.Size, now.Size + 1, now.Size + 1000, 1 << 62} {
		for _, proof := range [][][]byte{nil, {root}, slices.Repeat([][]byte{root}, 64)} {
			h.refused(fmt.Sprintf("a checkpoint of %d entries with another root", size), h.ask("checkpoint", nodeapi.Checkpoint{Size: size, Root: root, Proof: proof}, nil))
		}
	}
}

// verbs asks for what is root's alone.
func (h *hostile) verbs() {
	h.refused("a login token", h.ask("token", nodeapi.LoginToken{}, nil))
	h.refused("the prober's token", h.ask("token", nodeapi.LoginToken{Prober: true}, nil))
	h.refused("the end of all instances", h.ask("halt", struct{}{}, nil))
}

// garbage is what no verb understands.
func (h *hostile) garbage() {
	deep := strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000)
	noise := make([]byte, 1000)
	rand.Read(noise)
	for _, verb := range []string{"submit", "enroll", "receipt", "graces", "push", "keyowner", "members", "tokens", "release", "bundle", "start", "stop", "approvals", "promote",
		"promoted", "running", "reveal", "run", "checkpoint", "chain", "sbom", "packages", "build", "logs", "applogs", "../../etc/passwd", "start/../halt", "nothing"} {
		for _, body := range []string{"", "null", "[]", "{", `"x"`, `{"unknown":1}`, deep, string(noise), `{"app":"app_../../../etc"}`, `{"instance":"../../../etc/passwd"}`, `{"envelope":{}}`, strings.Repeat("9", 1<<20)} {
			err := h.post(verb, []byte(body), nil)
			if body == "null" { // of some verbs that is an empty question, which has an empty answer
				continue
			}
			h.refused(fmt.Sprintf("%s of %.40q", verb, body), err)
		}
	}
}

// routes leads the victim's host to the friend's app: by the host's name, and by exchanging the instances of the two.
func (h *hostile) routes() {
	resp, err := h.edge.Get("http://edge/table")
	h.ts.Check(err)
	defer resp.Body.Close()
	var t bulwark.Table
	h.ts.Check(json.NewDecoder(resp.Body).Decode(&t))
	led, exchanged := maps.Clone(t.Routes), maps.Clone(t.Apps)
	for host, app := range led {
		if app == h.victim {
			led[host] = h.evil
		}
	}
	v, e := exchanged[h.victim], exchanged[h.evil]
	v.Instances, e.Instances = e.Instances, v.Instances
	exchanged[h.victim], exchanged[h.evil] = v, e
	for what, forged := range map[string]bulwark.Table{"the host of another": {Routes: led, Apps: t.Apps}, "the instances of another": {Routes: t.Routes, Apps: exchanged}} {
		t.Generation++
		forged.Generation = t.Generation
		b, err := json.Marshal(forged)
		h.ts.Check(err)
		req, err := http.NewRequest(http.MethodPut, "http://edge/table", bytes.NewReader(b))
		h.ts.Check(err)
		resp, err := h.edge.Do(req)
		h.ts.Check(err)
		text, err := io.ReadAll(resp.Body)
		h.ts.Check(errors.Join(err, resp.Body.Close()))
		if resp.StatusCode >= 300 {
			h.ts.Fatalf("the edge does not take the server's table: %s", text)
		}
		h.tried++
		h.ts.Logf("with %s:", what)
		request(h.ts, false, "https", []string{"-status", "503", "GET", h.name, "/"}) // and not an answer of an app's
	}
}
