package statement_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/process"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

const (
	zero = "0000000000000000000000000000000000000000"
	one  = "1111111111111111111111111111111111111111"
)

// payload is a certificate as git writes it.
const payload = "certificate version 0.1\n" +
	"pusher Somebody <somebody@example.org> 1780000000 +0200\n" +
	"pushee ssh://git@apps.example.org:2222/shop.git\n" +
	"nonce 1780000000-0123456789abcdef0123456789abcdef01234567\n" +
	"\n" +
	zero + " " + one + " refs/heads/main\n"

func signer(t testing.TB) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromKey(key(9))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func signed(t testing.TB, text, namespace string) []byte {
	t.Helper()
	sig, err := sshsig.Sign(strings.NewReader(text), signer(t), sshsig.HashSHA512, namespace)
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte(text), sshsig.Armor(sig)...)
}

// What ssh-keygen signs for git is read: this is the form that comes from people's machines.
func TestPushCertificateOfSSHKeygen(t *testing.T) {
	keygen, err := process.Look("ssh-keygen", "openssh-client")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			file, text := filepath.Join(dir, "key"), filepath.Join(dir, "cert")
			env := []string{"HOME=" + dir, "PATH=/usr/bin:/bin"}
			if err := process.Run(t.Context(), process.Cmd{Path: keygen, Args: []string{"-q", "-t", kind, "-N", "", "-f", file}, Env: env}); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(text, []byte(payload), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := process.Run(t.Context(), process.Cmd{Path: keygen, Args: []string{"-Y", "sign", "-n", "git", "-f", file, text}, Env: env}); err != nil {
				t.Fatal(err)
			}
			sig, err := os.ReadFile(text + ".sig")
			if err != nil {
				t.Fatal(err)
			}
			c, err := statement.ParsePushCertificate(append([]byte(payload), sig...))
			if err != nil {
				t.Fatal(err)
			}
			line, err := os.ReadFile(file + ".pub")
			if err != nil {
				t.Fatal(err)
			}
			pub, _, _, _, err := ssh.ParseAuthorizedKey(line)
			if err != nil || ssh.FingerprintSHA256(pub) != ssh.FingerprintSHA256(c.Signer) {
				t.Fatalf("signed by %s, %v", ssh.FingerprintSHA256(c.Signer), err)
			}
		})
	}
}

// Each field comes back as it was signed.
func TestPushCertificate(t *testing.T) {
	c, err := statement.ParsePushCertificate(signed(t, payload, "git"))
	if err != nil {
		t.Fatal(err)
	}
	if c.App != "shop" || c.Old != zero || c.New != one || c.Ref != "refs/heads/main" ||
		c.Nonce != "1780000000-0123456789abcdef0123456789abcdef01234567" || c.Pusher != "Somebody <somebody@example.org> 1780000000 +0200" ||
		c.Pushee != "ssh://git@apps.example.org:2222/shop.git" || ssh.FingerprintSHA256(c.Signer) != ssh.FingerprintSHA256(signer(t).PublicKey()) {
		t.Fatalf("it came back as %+v", c)
	}
}

// A certificate is signed, so that a person could sign any of these; git would have written none, and two readers could
// understand it differently.
func TestPushCertificateForms(t *testing.T) {
	edit := func(old, text string) string {
		if !strings.Contains(payload, old) {
			t.Fatalf("%q is not in a certificate", old)
		}
		return strings.Replace(payload, old, text, 1)
	}
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"as it is":                      {payload, true},
		"without a pusher":              {edit("pusher Somebody <somebody@example.org> 1780000000 +0200\n", ""), true},
		"the address of scp":            {edit("ssh://git@apps.example.org:2222/shop.git", "git@apps.example.org:shop.git"), true},
		"the address without .git":      {edit("shop.git", "shop"), true},
		"another version":               {edit("0.1", "0.2"), false},
		"no version":                    {edit("certificate version 0.1\n", ""), false},
		"no address":                    {edit("pushee ssh://git@apps.example.org:2222/shop.git\n", ""), false},
		"no nonce":                      {edit("nonce 1780000000-0123456789abcdef0123456789abcdef01234567\n", ""), false},
		"an empty nonce":                {edit("nonce 1780000000-0123456789abcdef0123456789abcdef01234567\n", "nonce \n"), false},
		"two nonces":                    {edit("nonce ", "nonce 1-2\nnonce "), false},
		"two addresses":                 {edit("pushee ", "pushee ssh://git@h/blog.git\npushee "), false},
		"a push option":                 {edit("nonce ", "push-option x\nnonce "), false},
		"a line of nobody's":            {edit("nonce ", "evil yes\nnonce "), false},
		"a carriage return in a name":   {edit("nonce ", "nonce\r "), false},
		"no commands":                   {edit("\n\n", "\n"), false},
		"two commands":                  {payload + zero + " " + one + " refs/heads/evil\n", false},
		"an empty second line":          {payload + "\n", false},
		"a command of two words":        {edit(" refs/heads/main", ""), false},
		"a command of four words":       {edit(zero, zero+" "+zero), false},
		"a tag":                         {edit("refs/heads/", "refs/tags/"), false},
		"a ref of git's own":            {edit("refs/heads/main", "HEAD"), false},
		"a commit of capitals":          {edit(one, strings.Repeat("A", 40)), false},
		"a commit cut short":            {edit(one, one[:39]), false},
		"a SHA-256 commit":              {edit(one, strings.Repeat("1", 64)), false},
		"an option for a commit":        {edit(one, "--upload-pack="+strings.Repeat("x", 26)), false},
		"an address with a deeper path": {edit("/shop.git", "/a/shop.git"), false},
		"an address that climbs":        {edit("/shop.git", "/../shop.git"), false},
		"an address without an app":     {edit("/shop.git", "/"), false},
		"an address of the web":         {edit("ssh://git@apps.example.org:2222/shop.git", "https://apps.example.org/shop.git"), false},
		"an app of a reserved name":     {edit("shop.git", "api.git"), false},
		"an app in capitals":            {edit("shop.git", "Shop.git"), false},
		"an address that is no address": {edit("ssh://git@apps.example.org:2222/shop.git", "%zz"), false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := statement.ParsePushCertificate(signed(t, c.text, "git")); (err == nil) != c.ok {
				t.Fatal(err)
			}
		})
	}
}

// No byte of a certificate can be another than what was signed.
func TestPushCertificateEveryByte(t *testing.T) {
	good := signed(t, payload, "git")
	for i := range payload {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := statement.ParsePushCertificate(bad); err == nil {
			t.Fatalf("it verified with byte %d another", i)
		}
	}
}

// The signature is one of git's: not of a file, not by a weak hash, not cut, not another's.
func TestPushCertificateSignature(t *testing.T) {
	good := signed(t, payload, "git")
	armour := good[len(payload):]
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := ssh.NewSignerFromKey(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(armour)
	swapped := bytes.Replace(block.Bytes, signer(t).PublicKey().Marshal(), other(t).PublicKey().Marshal(), 1)
	for name, c := range map[string]struct {
		raw  []byte
		want bulwark.Kind
	}{
		"of a file":               {signed(t, payload, "file"), bulwark.KindForbidden},
		"of another payload":      {append([]byte(strings.Replace(payload, "main", "evil", 1)), armour...), bulwark.KindForbidden},
		"in another's name":       {append([]byte(payload), pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: swapped})...), bulwark.KindForbidden},
		"missing":                 {[]byte(payload), bulwark.KindInvalid},
		"cut":                     {good[:len(good)-40], bulwark.KindInvalid},
		"empty":                   {append([]byte(payload), "-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----\n"...), bulwark.KindInvalid},
		"of PGP":                  {append([]byte(payload), "-----BEGIN PGP SIGNATURE-----\n-----END PGP SIGNATURE-----\n"...), bulwark.KindInvalid},
		"of a key in its place":   {append([]byte(payload), pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: rs.PublicKey().Marshal()})...), bulwark.KindInvalid},
		"behind 64 KiB":           {append(bytes.Repeat([]byte("x"), 64<<10), good...), bulwark.KindInvalid},
		"nothing at all":          {nil, bulwark.KindInvalid},
		"of an empty certificate": {signed(t, "", "git"), bulwark.KindInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := statement.ParsePushCertificate(c.raw)
			if err == nil || bulwark.KindOf(err) != c.want {
				t.Fatalf("%v, want %s", err, c.want)
			}
		})
	}
}

func other(t testing.TB) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromKey(key(8))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Whatever comes, what is read was signed as it stands.
func FuzzParsePushCertificate(f *testing.F) {
	good := signed(f, payload, "git")
	f.Add(good)
	f.Add([]byte(payload))
	f.Add(append([]byte("-----BEGIN SSH SIGNATURE-----\n"), good...))
	want := ssh.FingerprintSHA256(signer(f).PublicKey())
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := statement.ParsePushCertificate(raw)
		if err != nil || ssh.FingerprintSHA256(c.Signer) != want { // anybody may sign with a key of their own
			return
		}
		if !bytes.HasPrefix(raw, []byte(payload)) || c.App != "shop" || c.New != one {
			t.Fatalf("%q was read as %+v", raw, c)
		}
	})
}
