// Starts Hearth for Complement's tests, as processes of this machine in place of containers.
//
// scripts/complement copies this file into the root of a checkout of Complement, whose package it becomes part of. The servers
// are called hs1, hs2 and so on, and listen at 127.0.1.1, 127.0.1.2 and so on, at ports 8008 (clients) and 8448 (servers); the
// names must resolve to these addresses. One deployment is up at a time. What a failed test leaves is in $COMPLEMENT_DIR.

package complement

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/matrix-org/complement/client"
	"github.com/matrix-org/complement/config"
	"github.com/matrix-org/complement/ct"
	"github.com/matrix-org/complement/helpers"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

const (
	hearthStartTimeout = 60 * time.Second
	hearthConfig       = `
server_name = "%[1]s"
public_base_url = "http://%[2]s:8008"
data_dir = "%[3]s"

[[listeners]]
bind = ["%[2]s"]
port = 8008
resources = ["client", "media", "admin", "health"]

[[listeners]]
bind = ["%[2]s"]
port = 8448
tls_certificate_file = "%[3]s/certificate.pem"
tls_private_key_file = "%[3]s/key.pem"
resources = ["federation", "media"]

[registration]
enabled = true
shared_secret = "complement"
password_hash_cost = "minimum"
guests = true

[rate_limits]
enabled = false

[presence]
enabled = true

[rooms]
default_version = "%[4]s"

[media]
unauthenticated_before_ts_ms = 4000000000000

[federation]
custom_ca_file = "%[3]s/ca.pem"
allow_private_addresses = true
trusted_key_servers = []
`
)

var (
	hearthDeployments atomic.Int64
	hearthAddresses   sync.Mutex // held by the deployment that is up
	hearthKey, keyErr = rsa.GenerateKey(rand.Reader, 2048)
)

func init() {
	customDeployer = deployHearth
}

type hearthServer struct {
	name, address, dir string
	command            *exec.Cmd
}

type hearthDeployment struct {
	config  *config.Complement
	dir     string
	servers map[string]*hearthServer
	users   atomic.Int64
}

func deployHearth(t ct.TestLike, count int, cfg *config.Complement) Deployment {
	t.Helper()
	hearthAddresses.Lock()
	name := fmt.Sprintf("%s-%03d-%s", cfg.PackageNamespace, hearthDeployments.Add(1), strings.ReplaceAll(t.Name(), "/", "_"))
	d := &hearthDeployment{config: cfg, dir: filepath.Join(os.Getenv("COMPLEMENT_DIR"), name), servers: map[string]*hearthServer{}}
	var starting sync.WaitGroup
	for i := 1; i <= count; i++ {
		s := &hearthServer{name: fmt.Sprintf("hs%d", i), address: fmt.Sprintf("127.0.1.%d", i)}
		s.dir = filepath.Join(d.dir, s.name)
		if err := s.prepare(cfg); err != nil {
			ct.Fatalf(t, "%s: %s", s.name, err)
		}
		d.servers[s.name] = s
		starting.Add(1)
		go func() {
			defer starting.Done()
			s.start(t)
		}()
	}
	starting.Wait()
	return d
}

// prepare writes the configuration, and a certificate by Complement's authority.
func (s *hearthServer) prepare(cfg *config.Complement) error {
	if keyErr != nil {
		return keyErr
	}
	version := os.Getenv("COMPLEMENT_ROOM_VERSION")
	if version == "" {
		version = "11"
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: s.name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{s.name}, IPAddresses: []net.IP{net.ParseIP(s.address)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, cfg.CACertificate, &hearthKey.PublicKey, cfg.CAPrivateKey)
	if err != nil {
		return err
	}
	authority, err := cfg.CACertificateBytes()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	files := map[string][]byte{
		"hearth.toml":     fmt.Appendf(nil, hearthConfig, s.name, s.address, s.dir, version),
		"certificate.pem": encodePEM("CERTIFICATE", der),
		"key.pem":         encodePEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(hearthKey)),
		"ca.pem":          authority,
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(s.dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func encodePEM(kind string, der []byte) []byte {
	var encoded bytes.Buffer
	pem.Encode(&encoded, &pem.Block{Type: kind, Bytes: der})
	return encoded.Bytes()
}

func (s *hearthServer) url() string { return "http://" + s.address + ":8008" }

func (s *hearthServer) start(t ct.TestLike) {
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Errorf("%s: %s", s.name, err)
		return
	}
	defer log.Close()
	s.command = exec.Command(filepath.Join(os.Getenv("HEARTH_REPO"), "scripts/hearth"), "run", "--config", filepath.Join(s.dir, "hearth.toml"))
	s.command.Stdout, s.command.Stderr = log, log
	s.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.command.Start(); err != nil {
		t.Errorf("%s: %s", s.name, err)
		return
	}
	for began := time.Now(); time.Since(began) < hearthStartTimeout; time.Sleep(50 * time.Millisecond) {
		if answer, err := http.Get(s.url() + "/_matrix/client/versions"); err == nil {
			answer.Body.Close()
			return
		}
	}
	t.Errorf("%s did not start; see %s", s.name, log.Name())
}

func (s *hearthServer) signal(signal syscall.Signal) {
	if s.command != nil && s.command.Process != nil {
		syscall.Kill(-s.command.Process.Pid, signal)
	}
}

func (s *hearthServer) stop(signal syscall.Signal) {
	s.signal(signal)
	if s.command != nil {
		s.command.Wait()
	}
	s.command = nil
}

func (d *hearthDeployment) server(t ct.TestLike, name string) *hearthServer {
	t.Helper()
	s := d.servers[name]
	if s == nil {
		ct.Fatalf(t, "there is no server %s in this deployment", name)
	}
	return s
}

func (d *hearthDeployment) GetFullyQualifiedHomeserverName(t ct.TestLike, name string) spec.ServerName {
	return spec.ServerName(d.server(t, name).name)
}

func (d *hearthDeployment) UnauthenticatedClient(t ct.TestLike, name string) *client.CSAPI {
	return client.NewCSAPI(client.CSAPIOpts{
		BaseURL: d.server(t, name).url(), Client: client.NewLoggedClient(t, name, nil), SyncUntilTimeout: 5 * time.Second,
	})
}

func (d *hearthDeployment) Register(t ct.TestLike, name string, opts helpers.RegistrationOpts) *client.CSAPI {
	t.Helper()
	c := d.UnauthenticatedClient(t, name)
	c.Password = opts.Password
	if c.Password == "" {
		c.Password = "complement_meets_min_password_req"
	}
	localpart := fmt.Sprintf("user-%d", d.users.Add(1))
	if opts.LocalpartSuffix != "" {
		localpart += "-" + opts.LocalpartSuffix
	}
	if opts.IsAdmin {
		c.UserID, c.AccessToken, c.DeviceID = c.RegisterSharedSecret(t, localpart, c.Password, true)
	} else {
		c.UserID, c.AccessToken, c.DeviceID = c.RegisterUser(t, localpart, c.Password)
	}
	return c
}

func (d *hearthDeployment) Login(t ct.TestLike, name string, existing *client.CSAPI, opts helpers.LoginOpts) *client.CSAPI {
	t.Helper()
	localpart, _, err := gomatrixserverlib.SplitID('@', existing.UserID)
	if err != nil {
		ct.Fatalf(t, "%s: %s", existing.UserID, err)
	}
	c := d.UnauthenticatedClient(t, name)
	c.Password = existing.Password
	if opts.Password != "" {
		c.Password = opts.Password
	}
	var more []client.LoginOpt
	if opts.DeviceID != "" {
		more = append(more, client.WithDeviceID(opts.DeviceID))
	}
	c.UserID, c.AccessToken, c.DeviceID = c.LoginUser(t, localpart, c.Password, more...)
	return c
}

func (d *hearthDeployment) AppServiceUser(t ct.TestLike, _, _ string) *client.CSAPI {
	ct.Fatalf(t, "this deployment has no application services")
	return nil
}

func (d *hearthDeployment) Restart(t ct.TestLike) error {
	for _, s := range d.servers {
		s.stop(syscall.SIGTERM)
		s.start(t)
	}
	return nil
}

func (d *hearthDeployment) StopServer(t ct.TestLike, name string) {
	d.server(t, name).stop(syscall.SIGTERM)
}

func (d *hearthDeployment) StartServer(t ct.TestLike, name string) { d.server(t, name).start(t) }

func (d *hearthDeployment) PauseServer(t ct.TestLike, name string) {
	d.server(t, name).signal(syscall.SIGSTOP)
}

func (d *hearthDeployment) UnpauseServer(t ct.TestLike, name string) {
	d.server(t, name).signal(syscall.SIGCONT)
}

func (d *hearthDeployment) ContainerID(t ct.TestLike, name string) string {
	return d.server(t, name).name
}

func (d *hearthDeployment) Destroy(t ct.TestLike) {
	for _, s := range d.servers {
		s.stop(syscall.SIGKILL)
	}
	if !t.Failed() {
		os.RemoveAll(d.dir)
	}
	hearthAddresses.Unlock()
}

func (d *hearthDeployment) GetConfig() *config.Complement { return d.config }

func (d *hearthDeployment) Network() string { return "" }

func (d *hearthDeployment) RoundTripper() http.RoundTripper { return d }

// RoundTrip sends what Complement's own server has for others to where they are.
func (d *hearthDeployment) RoundTrip(request *http.Request) (*http.Response, error) {
	name := request.URL.Hostname()
	if s, ok := d.servers[name]; ok {
		request.URL.Host = s.address + ":8448"
	} else if name != d.config.HostnameRunningComplement {
		return nil, fmt.Errorf("there is no server %s in this deployment", name)
	}
	request.URL.Scheme = "https"
	transport := &http.Transport{TLSClientConfig: &tls.Config{ServerName: name, InsecureSkipVerify: true}}
	return transport.RoundTrip(request)
}
