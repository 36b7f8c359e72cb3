"""What somebody who comes from sentence-transformers has: thirty lines, of which the import changes."""

from sentence_transformers import SentenceTransformer

model = SentenceTransformer(MODEL, device="cpu", **OPTIONS)  # type: ignore[name-defined]  # noqa: F821
corpus = ["Softwareentwickler", "enfermera", "chef de cuisine", "programador", "Oberbürgermeister", "abogado"]
queries = ["software developer", "nurse"]

results = {}
results["dimension"] = model.get_embedding_dimension()
results["length"] = model.max_seq_length
results["similarity"] = model.similarity_fn_name

documents = model.encode_document(corpus, batch_size=32, show_progress_bar=False, convert_to_tensor=True)
asked = model.encode_query(queries, normalize_embeddings=True)
results["queries"] = asked
results["documents"] = documents.cpu().numpy()

scores = model.similarity(asked, documents)
results["scores"] = scores
results["pairs"] = model.similarity_pairwise(documents[:2], documents[2:4])

results["single"] = model.encode("nurse", prompt="job title: ")
results["named"] = model.encode(sentences=corpus, prompt_name="query")
results["bits"] = model.encode(corpus, precision="ubinary")

with model.truncate_embeddings(32):
    results["short"] = model.encode(corpus, normalize_embeddings=True)

model.max_seq_length = 4
results["cut"] = model.encode(["Oberbürgermeister der Stadt am Fluss"])
results["prompts"] = sorted(model.prompts)
