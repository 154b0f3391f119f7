package main

import (
	"context"
	"encoding/json"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// sbomCommand is "builds sbom".
func (c *cli) sbomCommand() *cobra.Command {
	var format, file string
	cmd := c.forApp(command("sbom [N]", "Print what an image is made of (SBOM)",
		"  $ bulwark builds sbom > shop.spdx.json\n  $ bulwark builds sbom 12 --format cyclonedx -o shop.cdx.json", between(0, 1, ""),
		func(ctx context.Context, args []string) error { return c.sbom(ctx, args, format, file) }))
	cmd.Long = `Prints the software bill of materials of a build's image, or of the newest build that succeeded: the Debian packages, Go modules, npm and
Python packages in it, with their versions. The node made it from the image that it admitted, and its digest is in the provenance
that the node signed, which is verified here before anything is printed. With --json the document comes inside an object that also
has its digest.`
	cmd.Flags().StringVar(&format, "format", "spdx", "spdx (SPDX 2.3) or cyclonedx (CycloneDX 1.6), both as JSON")
	cmd.Flags().StringVarP(&file, "output", "o", "", "write the document to a file instead")
	if err := cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"spdx", "cyclonedx"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag was made a few lines above
	}
	return cmd
}

// sbomTypes are the media types by which a provenance names the documents.
var sbomTypes = map[string]string{"spdx": "application/spdx+json", "cyclonedx": "application/vnd.cyclonedx+json"}

func (c *cli) sbom(ctx context.Context, args []string, format, file string) error {
	if sbomTypes[format] == "" {
		return misuse(quote(format)+" is no format of an SBOM.", "There are spdx and cyclonedx.")
	}
	var number uint64
	if len(args) == 1 {
		var err error
		if number, err = strconv.ParseUint(args[0], 10, 63); err != nil || number == 0 {
			return misuse(quote(args[0])+" is not the number of a build.", "bulwark builds lists them.")
		}
	}
	s, name, err := c.onApp(ctx)
	if err != nil {
		return err
	}
	if number == 0 {
		if number, err = newestBuild(ctx, s, name); err != nil {
			return err
		}
	}
	got, err := s.SBOM(ctx, name, number, format)
	if err != nil {
		return err
	}
	image, err := verifySBOM(got, format, name, s.server.key())
	if err != nil {
		return err
	}
	if file != "" {
		if err := os.WriteFile(file, got.Document, 0o644); err != nil { //nolint:gosec // a list of packages, for others to read
			return bulwark.Fail(bulwark.KindInvalid, "The file "+quote(file)+" cannot be written.", "", err)
		}
	}
	out := struct {
		Build     uint64          `json:"build"`
		Image     bulwark.Digest  `json:"image"`
		Format    string          `json:"format"`
		MediaType string          `json:"media_type"`
		Digest    bulwark.Digest  `json:"digest"`
		File      string          `json:"file,omitempty"`
		Document  json.RawMessage `json:"document,omitempty"`
	}{number, image, format, sbomTypes[format], bulwark.Sum(got.Document), file, nil}
	if file == "" {
		out.Document = got.Document
	}
	if file == "" && !c.json {
		_, err := c.stdout.Write(got.Document) // byte for byte: its digest is what was signed
		return err
	}
	return c.result(out, func() { c.say("%s holds the SBOM of %s, build %d.", file, name, number) })
}

// newestBuild is the newest build that became an image.
func newestBuild(ctx context.Context, s *session, name bulwark.AppName) (uint64, error) {
	builds, err := s.Builds(ctx, name)
	if err != nil {
		return 0, err
	}
	for _, b := range builds {
		if b.State == "succeeded" {
			return b.Number, nil
		}
	}
	return 0, bulwark.Fail(bulwark.KindNotFound, string(name)+" has no build that succeeded yet.", "Deploy it first: git push bulwark main.", nil)
}

// verifySBOM checks that a document is the one that the node wrote for an image of the app: the server only passed it on.
func verifySBOM(got client.SBOM, format string, name bulwark.AppName, node statement.Key) (image bulwark.Digest, err error) {
	var p statement.Provenance
	if err := statement.Open(got.Provenance, statement.ProvenancePayloadType, node, &p); err != nil {
		return "", err
	}
	ext := p.Predicate.BuildDefinition.ExternalParameters
	if p.PredicateType != statement.SLSAType || ext.Node != node.Fingerprint || ext.Name != name || len(p.Subject) != 1 ||
		bulwark.Sum(got.Document) != p.Byproduct(sbomTypes[format]) || !json.Valid(got.Document) {
		return "", bulwark.Fail(bulwark.KindForbidden, "What the server sent is not the SBOM that the node signed for.",
			"Do not use it, and find out who changed it: see bulwark verify.", nil)
	}
	return bulwark.ParseDigest("sha256:" + p.Subject[0].Digest["sha256"])
}
