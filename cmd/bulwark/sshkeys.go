package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/atomicfile"
	"github.com/bulwark-paas/bulwark/internal/process"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// sshKey is a public SSH key of the person.
type sshKey struct {
	path string // of the public key
	line string // authorized_keys form, without the comment: it often tells an account and a machine
	key  ssh.PublicKey
}

// fingerprint is the key's as ssh-keygen prints it.
func (k sshKey) fingerprint() string { return ssh.FingerprintSHA256(k.key) }

// readSSHKey reads a public key. If path is a private key's, the public one beside it is taken: a private key is never
// read further than its first line, and never sent.
func readSSHKey(path string) (sshKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return sshKey{}, bulwark.Fail(bulwark.KindInvalid, "The SSH key "+path+" cannot be read.", "Give the path of a .pub file, such as ~/.ssh/id_ed25519.pub.", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 32<<10))
	if err != nil {
		return sshKey{}, fmt.Errorf("the SSH key %s cannot be read: %w", path, err)
	}
	if strings.HasPrefix(string(b), "-----BEGIN ") && !strings.HasSuffix(path, ".pub") {
		return readSSHKey(path + ".pub")
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(b)
	if err != nil {
		return sshKey{}, bulwark.Fail(bulwark.KindInvalid, "The file "+path+" holds no public SSH key.", "Give the path of a .pub file, such as ~/.ssh/id_ed25519.pub.", err)
	}
	return sshKey{path: path, key: key, line: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))}, nil
}

// path makes what a person typed absolute.
func (c *cli) path(p string) string {
	if rest, ok := strings.CutPrefix(p, "~/"); ok {
		return filepath.Join(c.home, rest)
	}
	if !filepath.IsAbs(p) {
		return filepath.Join(c.cwd, p)
	}
	return p
}

// findSSHKey returns the person's usual key, nil if there is none.
func (c *cli) findSSHKey() (*sshKey, error) {
	for _, name := range []string{"id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"} {
		path := filepath.Join(c.home, ".ssh", name)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		k, err := readSSHKey(path)
		return &k, err
	}
	return nil, nil
}

// chooseSSHKey returns the key at path, else the person's usual one, else a new one.
func (c *cli) chooseSSHKey(ctx context.Context, path string) (sshKey, error) {
	if path != "" {
		return readSSHKey(c.path(path))
	}
	k, err := c.findSSHKey()
	if err != nil {
		return sshKey{}, err
	}
	if k != nil {
		return *k, nil
	}
	return c.makeSSHKey(ctx)
}

func (c *cli) makeSSHKey(ctx context.Context) (sshKey, error) {
	keygen, err := process.Look("ssh-keygen", "openssh-client")
	if err != nil {
		return sshKey{}, err
	}
	dir := filepath.Join(c.home, ".ssh")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return sshKey{}, fmt.Errorf("the directory %s cannot be made: %w", dir, err)
	}
	path := filepath.Join(dir, "id_ed25519")
	// ssh-keygen asks before it overwrites; with no input it refuses.
	_, err = process.Output(ctx, process.Cmd{Path: keygen, Args: []string{"-q", "-t", "ed25519", "-N", "", "-f", path},
		Env: []string{"HOME=" + c.home, "PATH=/usr/bin:/bin", "LC_ALL=C"}})
	if err != nil {
		return sshKey{}, fmt.Errorf("no SSH key could be made: %w", err)
	}
	c.say("You had no SSH key, so one was made: %s (without a passphrase; set one with ssh-keygen -p -f %s).", path, path)
	return readSSHKey(path + ".pub")
}

// prove has the key sign that it is to be registered by a statement of the session's. ssh-keygen knows agents, passphrases and security
// keys, as when git signs a push.
func (c *cli) prove(ctx context.Context, k sshKey, s *session) (statement.SSHKey, error) {
	keygen, err := process.Look("ssh-keygen", "openssh-client")
	if err != nil {
		return statement.SSHKey{}, err
	}
	env := []string{"HOME=" + c.home, "PATH=/usr/bin:/bin", "LC_ALL=C"}
	for _, name := range []string{"SSH_AUTH_SOCK", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "SSH_SK_PROVIDER", "DISPLAY", "WAYLAND_DISPLAY", "TERM"} {
		if v := c.getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	cmd := process.Cmd{Path: keygen, Args: []string{"-q", "-Y", "sign", "-n", statement.KeyProofNamespace, "-f", k.path}, Env: env,
		Stdin: bytes.NewReader(statement.KeyProof(s.server.Node, s.fingerprint(), k.fingerprint()))}
	if strings.HasPrefix(k.key.Type(), "sk-") {
		cmd.Stderr = c.stderr // it says when to touch the key
	}
	sig, err := process.Output(ctx, cmd)
	if err != nil {
		return statement.SSHKey{}, bulwark.Fail(bulwark.KindInvalid, "The SSH key "+k.path+" cannot sign, and signs pushes later.",
			"Give one whose private half is beside it or in the agent (ssh-add), with a path.", err)
	}
	return statement.SSHKey{Line: k.line, Proof: string(sig)}, nil
}

// signingKey returns the path of the public key that signs pushes to a server.
func (c *cli) signingKey(ctx context.Context, srv server) (string, error) {
	if srv.SSH != "" {
		if _, err := os.Stat(srv.SSH); err == nil {
			return srv.SSH, nil
		}
	}
	k, err := c.findSSHKey()
	if err != nil {
		return "", err
	}
	if k == nil {
		return "", bulwark.Invalid("There is no SSH key to sign pushes with.", "Make one with ssh-keygen -t ed25519 and register it with bulwark keys add.")
	}
	return k.path, nil
}

// pinHostKeys writes the host keys, which the node has signed, into ~/.ssh/known_hosts for one host and port, and returns
// how many were new. Other keys that stood there for just this host and port are taken out: the node has not signed
// for them, and ssh would believe them.
func pinHostKeys(home, host, port string, keys []string) (int, error) {
	marker := host
	if port != "" && port != "22" {
		marker = "[" + host + "]:" + port
	}
	var want []string
	for _, k := range keys {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k))
		if err != nil {
			return 0, bulwark.Fail(bulwark.KindInvalid, "The server's SSH host key cannot be read.", "Ask the operator.", err)
		}
		want = append(want, marker+" "+strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))))
	}
	path := filepath.Join(home, ".ssh", "known_hosts")
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // the link stays, what it leads to is replaced
	}
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("the file %s cannot be read: %w", path, err)
	}
	text, added := mergeHostKeys(string(old), marker, want)
	if text == string(old) {
		return 0, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return 0, fmt.Errorf("the directory of %s cannot be made: %w", path, err)
	}
	return added, atomicfile.Write(path, []byte(text), 0o600)
}

// mergeHostKeys returns old with exactly the lines want for marker.
func mergeHostKeys(old, marker string, want []string) (text string, added int) {
	if len(want) == 0 {
		return old, 0
	}
	var out []string
	have := map[string]bool{}
	for line := range strings.Lines(old) {
		line = strings.TrimRight(line, "\r\n")
		f := strings.Fields(line)
		if len(f) >= 3 && f[0] == marker {
			plain := strings.Join(f[:3], " ")
			if have[plain] || !slices.Contains(want, plain) {
				continue
			}
			have[plain] = true
		}
		out = append(out, line)
	}
	for _, w := range want {
		if !have[w] {
			have[w] = true
			out = append(out, w)
			added++
		}
	}
	return strings.Join(out, "\n") + "\n", added
}
