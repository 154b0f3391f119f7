package install

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bulwark-paas/bulwark"
)

const tsigKey = "key \"acme.\" {\n\talgorithm hmac-sha256;\n\tsecret \"VGhpcyBrZXkgaXMgZm9yIHRlc3RzIG9ubHkgLi4uLi4=\";\n};\n"

func secretFile(t *testing.T, text string, mode os.FileMode) string {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// What tsig-keygen writes is taken, whatever comments it has; what others can read, or is weak or no key, is not, and no error shows it.
func TestReadUpdateKey(t *testing.T) {
	for _, text := range []string{tsigKey, "# mine\n" + tsigKey + "// that was it", strings.ReplaceAll(tsigKey, "\"acme.\"", "acme"), "/* a\nb */" + strings.TrimSuffix(tsigKey, ";\n")} {
		k, err := ReadUpdateKey(secretFile(t, text, 0o600))
		if err != nil || k.Name != "acme." || k.Algorithm != "hmac-sha256." || !strings.HasPrefix(k.Key, "VGhp") {
			t.Errorf("%q: %v %v", text, k, err)
		}
	}
	for _, text := range []string{"", "key", strings.ReplaceAll(tsigKey, "sha256", "md5"), strings.ReplaceAll(tsigKey, "VGhp", "!!!!"), tsigKey + tsigKey,
		strings.ReplaceAll(tsigKey, "VGhpcyBrZXkgaXMgZm9yIHRlc3RzIG9ubHkgLi4uLi4=", "c2hvcnQ=")} {
		k, err := ReadUpdateKey(secretFile(t, text, 0o600))
		if bulwark.KindOf(err) != bulwark.KindInvalid || strings.Contains(err.Error(), "VGhp") {
			t.Errorf("%q: %v %v", text, k, err)
		}
	}
	if _, err := ReadUpdateKey(secretFile(t, tsigKey, 0o640)); err == nil || !strings.Contains(err.Error(), "by others") {
		t.Error(err)
	}
	if _, err := ReadUpdateKey(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there")
	}
}

func TestReadAccounts(t *testing.T) {
	all, err := ReadAccounts(secretFile(t, "# of ours\n\nhttps://ca.example.org/dir kid-1 zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W== # the first\n", 0o600))
	if err != nil || len(all) != 1 || all[0].KeyID != "kid-1" || all[0].Directory != "https://ca.example.org/dir" || strings.HasSuffix(all[0].MACKey, "=") {
		t.Fatal(all, err)
	}
	for _, text := range []string{"https://ca.example.org/dir kid-1", "none kid key", "https://ca.example.org/dir kid c2hvcnQ", "http://ca.example.org/dir kid zWNDZM6eQGHWpSRTPal5eIUYFTu7EajV"} {
		if _, err := ReadAccounts(secretFile(t, "\n"+text, 0o600)); bulwark.KindOf(err) != bulwark.KindInvalid || !strings.Contains(err.Error(), ":2 ") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzReadUpdateKey(f *testing.F) {
	f.Add(tsigKey)
	f.Add("key a { algorithm hmac-sha512; secret \"\"; }")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(dir, "k")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := ReadUpdateKey(path)
		if err == nil && (strings.ContainsAny(k.Name+k.Algorithm+k.Key, " \t\r\n\"{};") || len(k.Key) < 16) {
			t.Fatalf("%q", k)
		}
	})
}
