package buildertest_test

import (
	"archive/tar"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/bulwark-paas/bulwark/internal/build/builder/buildertest"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestImport builds an image, packs it as an archive, and imports that into another app.
func TestImport(t *testing.T) {
	app := newApp(t)
	out := built(t, app, buildertest.Build{Source: files(t, map[string]string{"Dockerfile": "FROM bulwark/static\nCOPY x /x\nUSER 7:7\nEXPOSE 5000\nCMD [\"/x\"]\n", "x": "x"})})
	file := filepath.Join(tempDir(t), "image.tar")
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	add := func(name string, b []byte) {
		w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(b))})
		w.Write(b)
	}
	blobs, _ := filepath.Glob(app.Output + "/blobs/sha256/*")
	for _, b := range blobs {
		text, _ := os.ReadFile(b)
		add("blobs/sha256/"+filepath.Base(b), text)
	}
	index, _ := json.Marshal(ocispecs.Index{Manifests: []ocispecs.Descriptor{{MediaType: ocispecs.MediaTypeImageManifest, Digest: digest.Digest(out.Result.Image)}}})
	add("index.json", index)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	other := newApp(t)
	got := built(t, other, buildertest.Build{Import: file})
	if got.Result.Image != out.Result.Image || got.Result.Plan.Port != 5000 || got.Result.Plan.Processes["web"].Argv[0] != "/x" {
		t.Errorf("%+v, want %s", got.Result, out.Result.Image)
	}
	if _, err := buildertest.ReadImage(other.Output, got.Result.Image); err != nil {
		t.Error(err)
	}
}
