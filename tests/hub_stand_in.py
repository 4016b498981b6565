"A stand-in for the Hub: the part of its protocol that its own client needs to make a repository, send files and fetch them."
import base64, hashlib, json, re, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = 1000 # bytes from which a file goes by itself, by the protocol of git LFS

class Hub(ThreadingHTTPServer):
    "Repositories in memory; `log` holds what was asked for; of a file of `stall_at` bytes half goes through, and then nothing."
    daemon_threads = True
    def __init__(self):
        self.repos, self.large, self.tree_of, self.unlisted, self.log, self.stall_at = {}, {}, {}, set(), [], 0
        self.stalled, self.released = threading.Event(), threading.Event()
        super().__init__(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.serve_forever, daemon=True).start()
    @property
    def url(self): return f"http://127.0.0.1:{self.server_port}"
    def env(self, home): # what its client is to be told
        return dict(HF_ENDPOINT=self.url, HF_TOKEN="hf_test", HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1", HF_HOME=str(home), HF_HUB_DISABLE_PROGRESS_BARS="1")
    def sha(self, repo): return hashlib.sha1(json.dumps({n: hashlib.sha256(b).hexdigest() for n, b in self.repos[repo].items()}).encode()).hexdigest()
    def handle_error(self, request, client): pass # one at the other end was killed
    def hang(self): # until the one at the other end has gone
        self.stalled.set()
        self.released.wait(60)

def git_oid(content): return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

def as_file(name, content): # as a listing has it
    large = dict(lfs=dict(oid=hashlib.sha256(content).hexdigest(), size=len(content), pointerSize=130)) if len(content) >= LARGE else {}
    return dict(type="file", path=name, size=len(content), oid=git_oid(content), **large)

class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def say(self, content=b"", status=200, **headers):
        content = json.dumps(content).encode() if isinstance(content, (dict, list)) else content
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items(): self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(content)
    def body(self): return self.rfile.read(int(self.headers.get("Content-Length", 0)))
    def route(self):
        path, hub = unquote(urlsplit(self.path).path), self.server
        hub.log.append(f"{self.command} {path}" + (f" {self.headers['Range']}" if "Range" in self.headers else ""))
        for pattern, answer in ROUTES.items():
            if not (match := re.fullmatch(pattern, f"{self.command} {path}")): continue
            groups = list(match.groups())
            if REPO in pattern and "spaces/" in path.partition(groups[0])[0]: groups[0] = f"spaces/{groups[0]}"
            return answer(self, hub, *groups)
        self.say(dict(error=f"the stand-in has no {path}"), 404)
    do_GET = do_HEAD = do_POST = do_PUT = route
    def create(self, hub):
        asked = json.loads(self.body())
        if self.headers.get("Authorization") != "Bearer hf_test": return self.say(dict(error="Invalid username or password."), 401)
        kind = asked.get("type", "model")
        repo = ("spaces/" if kind == "space" else "") + f"{asked['organization']}/{asked['name']}"
        if repo in hub.repos: return self.say(dict(error="You already created this repo", url=f"{hub.url}/{repo}"), 409)
        hub.repos[repo] = {}
        hub.log.append(f"{repo} is a {asked.get('visibility')} {kind}")
        self.say(dict(url=f"{hub.url}/{repo}", id=repo, name=repo))
    def check_card(self, hub):
        self.body()
        self.say(dict(errors=[], warnings=[]))
    def preupload(self, hub, repo):
        files = json.loads(self.body())["files"]
        self.say(dict(files=[dict(path=f["path"], uploadMode="lfs" if f["size"] >= LARGE else "regular", shouldIgnore=False) for f in files]))
    def batch(self, hub, repo):
        objects = [dict(oid=o["oid"], size=o["size"]) for o in json.loads(self.body())["objects"]]
        for o in objects:
            if o["oid"] not in hub.large: o["actions"] = dict(upload=dict(href=f"{hub.url}/large/{o['oid']}"))
        self.say(dict(transfer="basic", objects=objects))
    def take(self, hub, oid):
        size = int(self.headers["Content-Length"])
        content = self.rfile.read(size // 2)
        if size == hub.stall_at: return hub.hang()
        content += self.rfile.read(size - len(content))
        if hashlib.sha256(content).hexdigest() != oid: return self.say(dict(error="another checksum"), 400)
        hub.large[oid] = content
        self.say()
    def commit(self, hub, repo):
        lines = [json.loads(line) for line in self.body().splitlines()]
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file": files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile": files[value["path"]] = hub.large[value["oid"]]
        hub.repos[repo] |= files
        self.say(dict(commitUrl=f"{hub.url}/{repo}/commit/{hub.sha(repo)}", commitOid=hub.sha(repo)))
    def info(self, hub, repo):
        if repo not in hub.repos: return self.say(dict(error="Repository not found"), 404, X_Error_Code="RepoNotFound")
        self.say(dict(id=repo, sha=hub.sha(repo), siblings=[dict(rfilename=name) for name in hub.repos[repo]], tags=[]))
    def tree(self, hub, repo): self.say([as_file(*item) for item in (hub.repos[repo] | hub.tree_of).items() if item[0] not in hub.unlisted])
    def give(self, hub, repo, name):
        content = hub.repos[repo].get(name)
        if content is None: return self.say(dict(error="Entry not found"), 404, X_Error_Code="EntryNotFound", X_Repo_Commit=hub.sha(repo))
        said = as_file(name, content)
        tag = said["lfs"]["oid"] if "lfs" in said else said["oid"]
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": hub.sha(repo), "Accept-Ranges": "bytes"}
        first = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        part = content[int(first[1]):] if first else content
        if first: headers["Content-Range"] = f"bytes {first[1]}-{len(content) - 1}/{len(content)}"
        if len(part) != hub.stall_at or self.command == "HEAD": return self.say(part, 206 if first else 200, **headers)
        self.send_response(200)
        for k, v in {"Content-Length": len(content), **headers}.items(): self.send_header(k, str(v))
        self.end_headers()
        self.wfile.write(content[:len(content) // 2])
        self.wfile.flush()
        hub.hang()

REPO, SPACES = r"([\w.-]+/[\w.-]+)", "(?:spaces/)?"
ROUTES = {
    r"POST /api/repos/create": Answer.create, r"POST /api/validate-yaml": Answer.check_card,
    rf"POST /api/(?:models|spaces)/{REPO}/preupload/main": Answer.preupload,
    rf"POST /{SPACES}{REPO}\.git/info/lfs/objects/batch": Answer.batch, r"PUT /large/(\w+)": Answer.take,
    rf"POST /api/(?:models|spaces)/{REPO}/commit/main": Answer.commit,
    rf"GET /api/(?:models|spaces)/{REPO}(?:/revision/\w+)?": Answer.info, rf"GET /api/(?:models|spaces)/{REPO}/tree/\w+": Answer.tree,
    rf"(?:GET|HEAD) /{SPACES}{REPO}/resolve/\w+/(.+)": Answer.give}
