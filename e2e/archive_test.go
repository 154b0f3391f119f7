package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"runtime"

	"github.com/rogpeppe/go-internal/testscript"
)

// archive makes an image elsewhere, as "docker save" does: an OCI archive with the stories' app and a version, and nothing
// else in it. It has to run as root if nobody stops it.
func archive(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: archive FILE VERSION")
	}
	out, err := probeImage(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), out, 0o644))
}

// probeImage is the archive.
func probeImage(version string) ([]byte, error) {
	program, err := os.ReadFile(with.probe)
	if err != nil {
		return nil, err
	}
	layer, err := tarOf(entry{"probe", program}, entry{"VERSION", []byte(version + "\n")})
	if err != nil {
		return nil, err
	}
	config := fmt.Appendf(nil, `{"architecture":%q,"os":"linux","config":{"User":"root","Entrypoint":["/probe"],"Cmd":["serve"]},"rootfs":{"type":"layers","diff_ids":[%q]}}`,
		runtime.GOARCH, digestOf(layer))
	describe := func(kind string, b []byte) string {
		return fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.%s","digest":%q,"size":%d}`, kind, digestOf(b), len(b))
	}
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}`,
		describe("config.v1+json", config), describe("layer.v1.tar", layer))
	all := []entry{{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{"index.json", fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[%s]}`, describe("manifest.v1+json", manifest))}}
	for _, b := range [][]byte{config, layer, manifest} {
		all = append(all, entry{"blobs/sha256/" + digestOf(b)[len("sha256:"):], b})
	}
	return tarOf(all...)
}

type entry struct {
	name string
	text []byte
}

func tarOf(entries ...entry) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&tar.Header{Name: e.name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(e.text))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.text); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
