package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bulwark-paas/bulwark/internal/install"
)

// A break takes a mechanism out of the platform: in one file, one text is replaced by another. A probe counts only if it turns
// red then.
type breakage struct{ file, old, by string }

var breakages = map[string][]breakage{
	"filter":  {{"internal/instance/containerd/spec.go", "spec.Linux.Seccomp = filter()", "_ = filter"}},
	"sandbox": {{"internal/node/instances.go", "Sandbox:  i.sandboxed(),", "Sandbox:  false,"}},
	"digests": {
		{"internal/node/images/store.go", "	if err := s.verify(s.blob(image), image); err != nil {\n		return nil, config, err\n", "	if err := s.verify(s.blob(image), image); false {\n		return nil, config, err\n"},
		{"internal/node/images/store.go", "s.verify(s.layer(y.EROFS), y.EROFS)); err != nil {", "s.verify(s.layer(y.EROFS), y.EROFS)); false {"},
	},
	// Signature and ledger stand behind each other: it takes both.
	"signatures": {
		{"internal/statement/envelope.go", "if _, err := ev.Verify(context.Background(), env); err != nil {", "if ev == nil {"},
		{"internal/node/ledger/release.go", "err != nil || !bytes.Equal(kept, b.Release) {", "err != nil || bytes.Equal(kept, nil) {"},
	},
	"router": {
		{"internal/node/network/rules.go", `"\t\tip daddr @closed goto refuse",`, ``},
		{"internal/node/network/rules.go", `"\t\ttcp flags & (syn | ack) != syn "+carry,`, `"\t\tip daddr 198.18.0.0/15 ip daddr != " + gw + " accept",`},
		{"internal/node/network/rules.go", `hook forward priority filter; policy drop;`, `hook forward priority filter; policy accept;`},
		{"internal/node/network/network.go", `[]byte("0\n")`, `[]byte("1\n")`},
		// Who is let in there is reset by egress, which may be sooner than the attacker looks.
		{"internal/egress/transit.go", "	if class == netpolicy.Open {\n", "	if class == netpolicy.Open || to.Addr().String() == \"@HOST@\" {\n"},
	},
	"leaving": {{"internal/node/network/leaving.go", `"\tmeta skuid %d goto egress"`, `"\tmeta skuid %d accept"`}},
	"secrets": {{"internal/seal/seal.go", "func (k *Key) Open(at Place, sealed []byte) ([]byte, error) {\n",
		"func (k *Key) Open(at Place, sealed []byte) (out []byte, err error) {\n\tdefer func() { println(string(out)) }()\n"}},
	"decision": {{"internal/server/people.go", "	return s.policy.Decide(actor, action, on)\n", "	return nil\n"}},
	"cores": {
		{"internal/supervise/spawn.go", "	return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: sandbox.CoreLimit, Max: sandbox.CoreLimit})", "	_ = sandbox.CoreLimit\n	return nil"},
		{"internal/instance/containerd/spec.go", `{Type: "RLIMIT_CORE", Hard: sandbox.CoreLimit, Soft: sandbox.CoreLimit},`, `{Type: "RLIMIT_CORE", Hard: sandbox.CoreLimit + 1<<30, Soft: 0},`},
	},
	"contents": {{"internal/node/packages.go", "strings.TrimPrefix(p.Version, \"v\") == strings.TrimPrefix(in.Version, \"v\")", "p.Version != in.Version"}},
	"sockets":  {{"internal/install/layout.go", "Mode: fs.ModeSocket | 0o600})", "Mode: fs.ModeSocket | 0o666})"}},
	"trust":    {{"client/client.go", "t := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}", "t := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}"}},
	"return":   {{"internal/supervise/unit.go", "		case <-due:\n", "		case <-due:\n			if u.spec.Name == \"resolver\" {\n				<-u.quit\n				return\n			}\n"}},
	"redirect": {{"internal/edge/redirect.go", "	w.WriteHeader(status)\n", "	w.WriteHeader(status - status + http.StatusOK)\n"}},
	"ciphers": {
		{"internal/edge/certs.go", "		MinVersion:     tls.VersionTLS12,\n", "		MinVersion:     tls.VersionTLS10,\n"},
		{"internal/edge/certs.go", "tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, ", "tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, "},
		{"internal/edge/certs.go", "		SessionTicketsDisabled: true,\n", ""},
		{"internal/edge/certs.go", "[]tls.CurveID{tls.X25519MLKEM768, ", "[]tls.CurveID{"},
	},
	"headers": {{"internal/edge/headers.go", "for i, name := range p.own.names {", "for i, name := range p.own.names {\nif name == \"X-Content-Type-Options\" {\ncontinue\n}"}},
	"floods": {
		{"internal/edge/limit.go", "over > 0 {", "over > 0 && l == nil {"},
		{"internal/edge/edge.go", "readHeaderTime  = 10 * time.Second", "readHeaderTime  = 10 * time.Minute"},
	},
	"firewall": {
		{"internal/edge/firewall.go", "	if v.Attack {\n", "	if v.Attack && s == nil {\n"},
		{"internal/edge/waf/waf.go", "func (l *Look) Attack() bool { return l.tx.IsInterrupted() }", "func (l *Look) Attack() bool { return l.tx.IsInterrupted() && l == nil }"},
	},
	"patches": {{"internal/edge/patches.go", "		if !p.what.DryRun {\n", "		if p.what.DryRun {\n"}},
	// Each terminal that goes through it meets the next kind of harm.
	"relay": {
		{"internal/server/run.go", "	\"net\"\n", "	\"net\"\n	\"os\"\n	\"sync/atomic\"\n"},
		{"internal/server/run.go", "	go func() { done <- pass(node, person) }()\n	go func() { done <- pass(person, node) }()\n",
			"	turn := int(turns.Add(1)) - 1\n	go func() { done <- meddle(node, person, turn, true) }()\n	go func() { done <- meddle(person, node, turn, false) }()\n"},
		{"internal/server/run.go", "func pass(", meddle + "func pass("},
		{"internal/server/handlers_run.go", "	return revealed(out), nil\n", "	println(string(out.Sealed), \"was revealed\")\n	return revealed(out), nil\n"},
	},
	"silence": {{"internal/node/node.go", "	defer n.ledger.Close()\n",
		"	defer n.ledger.Close()\n	go func() {\n		for ctx.Err() == nil {\n			if c, err := net.Dial(\"udp\", \"@HOST@:9\"); err == nil {\n				time.Sleep(time.Second)\n				c.Close()\n			}\n		}\n	}()\n"}},
}

// meddle is what a server does that sits in a terminal: it reads all, and changes, repeats, drops, answers with what somebody else was
// told, or cuts.
const meddle = `
var turns atomic.Int64
var before []byte // what the node said in the first turn

func meddle(to io.Writer, from io.Reader, turn int, up bool) error {
	harm := []string{"none", "flip down", "flip up", "repeat down", "drop down", "answer as before", "cut down", "cut up"}[turn%8]
	println("relay:", harm)
	buf := make([]byte, 32<<10)
	for n := 0; ; n++ {
		k, err := from.Read(buf)
		if err != nil {
			return err
		}
		b := buf[:k]
		os.Stderr.Write(b)
		switch {
		case harm == "none" && !up:
			before = append(before, b...)
		case harm == "flip down" && !up && n == 1, harm == "flip up" && up && n == 1:
			b[k-1] ^= 1
		case harm == "repeat down" && !up && n == 1:
			to.Write(b)
		case harm == "drop down" && !up && n == 1:
			continue
		case harm == "answer as before" && !up && n == 0:
			b = before
		case harm == "cut down" && !up && n == 2, harm == "cut up" && up && n == 2:
			return errors.New("cut")
		}
		if _, err := to.Write(b); err != nil {
			return err
		}
	}
}

`

// broken starts a further installation whose platform was built without some of its mechanisms, and goes on there.
func broken(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: broken NAME BREAKAGE...")
	}
	bin, err := buildBroken(ts, args[1:])
	ts.Check(err)
	p := with
	p.bulwark = bin
	bringUp(ts, args[0], p)
}

// buildBroken builds the program with texts replaced, by the go command's own overlay: the source stays as it is.
func buildBroken(ts *testscript.TestScript, names []string) (string, error) {
	root, err := filepath.Abs("..")
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(tempDir, "bwb-")
	if err != nil {
		return "", err
	}
	ts.Defer(func() { os.RemoveAll(dir) })
	// Every user of the installation executes what is in it.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	texts := map[string]string{}
	for _, name := range names {
		all, ok := breakages[name]
		if !ok {
			return "", fmt.Errorf("there is no breakage %q", name)
		}
		for _, b := range all {
			path := filepath.Join(root, b.file)
			if _, ok := texts[path]; !ok {
				text, err := os.ReadFile(path)
				if err != nil {
					return "", err
				}
				texts[path] = string(text)
			}
			// What does not apply any more breaks nothing, and a probe that stays green then proves nothing.
			if strings.Count(texts[path], b.old) != 1 {
				return "", fmt.Errorf("%s: %q is not there once", b.file, b.old)
			}
			texts[path] = strings.Replace(texts[path], b.old, strings.ReplaceAll(b.by, "@HOST@", ts.Getenv("HOST_ADDRESS")), 1)
		}
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for path, text := range texts {
		file := filepath.Join(dir, fmt.Sprintf("%d.go", len(overlay.Replace)))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return "", err
		}
		overlay.Replace[path] = file
	}
	b, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return "", err
	}
	out := filepath.Join(dir, "bin", "bulwark")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-tags", "no_cri,no_zfs,no_btrfs,no_devmapper,no_tracing,no_fs_access", "-overlay", file, "-o", out, "./cmd/bulwark")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("the broken platform does not build: %w\n%s", err, said)
	}
	if err := os.Chmod(filepath.Dir(out), 0o755); err != nil {
		return "", err
	}
	// The helper programs are whole.
	return out, os.Symlink(filepath.Join(filepath.Dir(filepath.Dir(with.bulwark)), "libexec"), filepath.Join(dir, "libexec"))
}

// disturb stops the web processes of the probes' app as soon as another of its instances is greedy, and lets them go on later: what
// its neighbours would see if greed reached them.
func disturb(ts *testscript.TestScript, _ bool, _ []string) {
	inst := of(ts).on.inst
	ended := make(chan struct{})
	ts.Defer(func() { close(ended) })
	go func() {
		for len(running(inst, "/kit\x00exhaust\x00")) == 0 {
			select {
			case <-ended:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
		web := running(inst, "/kit\x00serve\x00")
		for _, pid := range web {
			syscall.Kill(pid, syscall.SIGSTOP)
		}
		time.Sleep(12 * time.Second)
		for _, pid := range web {
			syscall.Kill(pid, syscall.SIGCONT)
		}
	}()
}

// running are the processes of an installation's users whose arguments begin in a way.
func running(inst *install.Installation, args string) []int {
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var out []int
	for _, f := range dirs {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		st, serr := os.Stat(filepath.Dir(f))
		b, rerr := os.ReadFile(f)
		if err == nil && serr == nil && rerr == nil && inst.IDs.Contains(st.Sys().(*syscall.Stat_t).Uid) && strings.HasPrefix(string(b), args) {
			out = append(out, pid)
		}
	}
	return out
}

// rulesOf wipes the rules of the installation's router, as somebody with root and no knowledge of them does, or waits until they are
// back.
func rulesOf(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 || args[0] != "wipe" && args[0] != "back" {
		ts.Fatalf("usage: rules wipe|back")
	}
	nft := func(more ...string) error {
		out, err := exec.Command("nsenter", append([]string{"--net=" + of(ts).on.inst.RouterNamespacePath(), "/usr/sbin/nft"}, more...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if args[0] == "wipe" {
		ts.Check(nft("delete", "table", "inet", "bulwark"))
		return
	}
	ts.Check(poll(10*time.Second, func() error { return nft("list", "chain", "inet", "bulwark", "arrive") }))
}
